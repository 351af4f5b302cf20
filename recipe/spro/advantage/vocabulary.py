"""What a tokenizer's tokens say, as far as steps need it: one look at each id of the vocabulary, tables afterwards."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# What may close a sentence after its mark: quotes and brackets.
_CLOSERS = r"""["'”’)\]}」』）】]*"""
_SENTENCE_END = re.compile(rf"[.!?。！？]{_CLOSERS}\s|[。！？]{_CLOSERS}$")
_MAYBE_SENTENCE_END = re.compile(rf"[.!?]{_CLOSERS}$")
_NOTHING_BUT_MARKS = re.compile(r"""[\s.!?。！？"'”’)\]}」』）】]*""")


@dataclass(frozen=True)
class TokenTable:
    """What each token of a vocabulary is: (V,) bool each, on the CPU.

    Ids beyond the table (rows that pad an embedding) are ordinary tokens: False everywhere. A special token has no
    text: it is blank and ends nothing.
    """

    ends_line: torch.Tensor
    """The text holds a newline."""
    blank: torch.Tensor
    """The text is white space."""
    ends_sentence: torch.Tensor
    """The text ends a sentence whatever follows."""
    may_end_sentence: torch.Tensor
    """The text ends with `.`, `!` or `?`: the next token decides."""
    marks_only: torch.Tensor
    """The text is white space and punctuation that ends or closes a sentence."""
    lets_sentence_end: torch.Tensor
    """The text starts with white space, or there is none: a `.` before it is a full stop."""

    @classmethod
    def of(cls, tokenizer: Any) -> TokenTable:
        """The table of a Hugging Face tokenizer, made once per tokenizer: it decodes each id by itself."""
        return _vocabulary(tokenizer)[1]


def tokenize_delimiters(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The token sequences that end a step, for `make_step_ids`.

    Returns:
        For each text its tokens, without special tokens, as the tokenizer makes them of the text alone; and every token
        that holds the whole text, by itself: of "\\n\\n" also ".\\n\\n", of "Step" also " Step".

    Raises:
        ValueError: a text of which the tokenizer makes no token.
    """
    sequences = [list(tokenizer.encode(text, add_special_tokens=False)) for text in texts]
    for text, ids in zip(texts, sequences, strict=True):
        if not ids:
            raise ValueError(f"the tokenizer makes no token of the delimiter {text!r}")
    known, _ = _vocabulary(tokenizer)
    holding = [[index] for index, token in enumerate(known) if any(text in token for text in texts)]
    return sequences + [ids for ids in holding if ids not in sequences]


# By tokenizer: the text of each id, and the table.
_known: weakref.WeakKeyDictionary[Any, tuple[list[str], TokenTable]] = weakref.WeakKeyDictionary()


def _vocabulary(tokenizer: Any) -> tuple[list[str], TokenTable]:
    size = max([len(tokenizer), *(index + 1 for index in tokenizer.get_vocab().values())])
    known = _known.get(tokenizer)
    # Tokens can be added.
    if known is None or len(known[0]) != size:
        texts = _texts(tokenizer, size)
        table = TokenTable(
            ends_line=_flags("\n" in text for text in texts),
            blank=_flags(not text.strip() for text in texts),
            ends_sentence=_flags(_SENTENCE_END.search(text) is not None for text in texts),
            may_end_sentence=_flags(_MAYBE_SENTENCE_END.search(text) is not None for text in texts),
            marks_only=_flags(_NOTHING_BUT_MARKS.fullmatch(text) is not None for text in texts),
            lets_sentence_end=_flags(not text or text[0].isspace() for text in texts),
        )
        _known[tokenizer] = known = (texts, table)
    return known


def _texts(tokenizer: Any, size: int) -> list[str]:
    """The text of each id, "" for a special token."""
    special = set(tokenizer.all_special_ids)
    special |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}

    # Pieces are bytes in some tokenizers of models' own.
    def text(index: int, piece: str | bytes | None) -> str:
        if piece is None or index in special:
            return ""
        # SentencePiece's mark of a space: decoded by itself it would be lost.
        if isinstance(piece, str) and piece.startswith("▁"):
            return piece.replace("▁", " ")
        return tokenizer.decode([index], clean_up_tokenization_spaces=False)

    return [text(*pair) for pair in enumerate(tokenizer.convert_ids_to_tokens(list(range(size))))]


def _flags(values: Iterable[bool]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.bool)
