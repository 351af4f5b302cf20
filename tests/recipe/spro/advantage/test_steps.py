"""Steps from token ids and masks: against a plain reference on random ragged batches with holes, and by hand."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from recipe.spro.advantage import spro_advantage, spro_advantage_naive
from recipe.spro.advantage.steps import STEPS, make_step_ids
from recipe.spro.advantage.vocabulary import TokenTable, tokenize_delimiters
from tests.recipe.spro.advantage.batches import jagged, random_batch

# A vocabulary with every kind of token; the last one is special.
TEXTS = ["a", " b", "14", "\n", "\n\n", ")\n", "x.\n", " ", "\t\n ", ".", ". ", "!", "?)", " c.", "。", "好。」", '."']
TEXTS += ["d! e", "...", "]", "<end>"]
SPECIAL = len(TEXTS) - 1
# An embedding may have more rows than the tokenizer has tokens.
IDS = len(TEXTS) + 2
DELIMITERS = [[0, 0], [2], [3, 4, 3], [2, 1]]


class Vocabulary:
    """As much of a tokenizer as a table needs."""

    all_special_ids = (SPECIAL,)
    added_tokens_decoder = {SPECIAL: SimpleNamespace(special=True)}  # noqa: RUF012 (nobody changes it)

    def __len__(self) -> int:
        return len(TEXTS)

    def get_vocab(self) -> dict[str, int]:
        return {text: index for index, text in enumerate(TEXTS)}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [TEXTS[index] for index in ids]

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool) -> str:
        assert not clean_up_tokenization_spaces
        return "".join(TEXTS[index] for index in ids)


TABLE = TokenTable.of(Vocabulary())


def reference(step: str, mask: list[int], ids: list[int], special_is_empty: bool = True) -> list[int | None]:
    """One row, token by token; None at masked places."""
    valid = [t for t, one in enumerate(mask) if one]
    texts = {t: TEXTS[ids[t]] if ids[t] < len(TEXTS) else "?unknown" for t in valid}
    special = {t for t in valid if ids[t] == SPECIAL}
    ends, empty = set(), set()
    for t in valid:
        text = "" if t in special else texts[t]
        beyond = ids[t] >= len(TEXTS)
        if step == "line":
            if "\n" in text and not beyond:
                ends.add(t)
            if not text.strip() and not beyond:
                empty.add(t)
        elif step == "sentence":
            following = texts.get(t + 1)
            if following is None or t + 1 in special:
                after = " "
            else:
                after = "x" if ids[t + 1] >= len(TEXTS) else following
            whole = text + after
            for at, mark in enumerate(text):
                if mark not in ".!?。！？" or beyond:
                    continue
                rest = whole[at + 1 :].lstrip("\"')]」")
                # Closers of the next token are not this token's.
                if len(whole) - len(rest) > len(text):
                    rest = after
                own = text[at + 1 :].strip("\"')]」") == ""
                if rest[0].isspace() or (own and mark in "。！？"):
                    ends.add(t)
            if not text.strip(" \n\t.!?。！？\"')]」") and not beyond:
                empty.add(t)
        elif step == "delimiter":
            for delimiter in DELIMITERS:
                span = range(t - len(delimiter) + 1, t + 1)
                if all(s in texts for s in span) and [ids[s] for s in span] == delimiter:
                    ends.add(t)
                    empty.update(span)
            if special_is_empty and (t in special or (not text.strip() and not beyond)):
                empty.add(t)
    if step == "turn":
        ends = {t for t in valid if t + 1 not in texts}

    pieces: list[list[int]] = [[]]
    for t in valid:
        pieces[-1].append(t)
        if t in ends:
            pieces.append([])
    result: list[int | None] = [None] * len(mask)
    number = -1
    for piece in pieces:
        if any(t not in empty for t in piece):
            number += 1
        for t in piece:
            result[t] = max(number, 0)
    return result


def random_tokens(seed: int, rows: int = 9, width: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mask with holes and empty rows, ids of the vocabulary and beyond, lengths."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, width + 1, (rows,), generator=rng)
    lengths[0], lengths[1] = width, 0
    mask = torch.arange(width) < lengths[:, None]
    mask &= torch.rand(rows, width, generator=rng) < 0.85
    mask[2] = False
    # Few kinds of token in a row, so that runs of delimiters come up.
    few = torch.randint(0, IDS, (rows, 4), generator=rng)
    ids = torch.where(
        torch.rand(rows, width, generator=rng) < 0.5,
        few.gather(1, torch.randint(0, 4, (rows, width), generator=rng)),
        torch.randint(0, IDS, (rows, width), generator=rng),
    )
    return mask, ids, lengths


def make(step: str, mask: torch.Tensor, ids: torch.Tensor, table: TokenTable | None = TABLE) -> torch.Tensor:
    delimiters = DELIMITERS if step == "delimiter" else None
    result = make_step_ids(step, mask, ids, table=table, delimiters=delimiters)
    assert result is not None
    return result


@pytest.mark.parametrize("layout", ["padded", "jagged"])
@pytest.mark.parametrize("step", ["line", "sentence", "turn", "delimiter", "delimiter without a table"])
@pytest.mark.parametrize("seed", range(25))
def test_against_the_reference(seed: int, step: str, layout: str) -> None:
    mask, ids, lengths = random_tokens(seed)
    step, _, without_table = step.partition(" ")
    expected = [
        reference(step, *pair, special_is_empty=not without_table)
        for pair in zip(mask.tolist(), ids.tolist(), strict=True)
    ]
    table = None if without_table else TABLE
    if layout == "padded":
        result = make(step, mask.long(), ids, table)
        assert result.shape == mask.shape
        rows = result.tolist()
    else:
        result = make(step, jagged(mask.long(), lengths), jagged(ids, lengths), table)
        assert result.layout == torch.jagged
        rows = [row.tolist() for row in result.unbind()]
        assert [len(row) for row in rows] == lengths.tolist()
    assert result.dtype == torch.int64
    for row, want in zip(rows, expected, strict=True):
        assert row == [one or 0 for one in want[: len(row)]]


@pytest.mark.parametrize("step", ["line", "sentence", "turn", "delimiter"])
def test_what_stands_at_masked_places_has_no_effect(step: str) -> None:
    mask, ids, _ = random_tokens(3)
    other = torch.where(mask, ids, torch.randint_like(ids, -5, 10**9))
    assert torch.equal(make(step, mask, ids), make(step, mask, other))


@pytest.mark.parametrize("step", ["line", "sentence", "turn", "delimiter"])
def test_the_advantage_takes_them(step: str) -> None:
    batch = random_batch(5, 24)
    _, ids, _ = random_tokens(5, rows=len(batch["response_mask"]))
    batch["step_ids"] = make(step, batch["response_mask"], ids)
    result, expected = spro_advantage(**batch, beta=0.3), spro_advantage_naive(**batch, beta=0.3)
    assert isinstance(result, torch.Tensor)
    assert isinstance(expected, torch.Tensor)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-5)
    by_token = spro_advantage(**{**batch, "step_ids": None}, beta=0.3)
    assert isinstance(by_token, torch.Tensor)
    assert not torch.allclose(result, by_token)


def ids_of(*texts: str) -> torch.Tensor:
    return torch.tensor([[TEXTS.index(text) for text in texts]])


BY_HAND = [
    ("line", ["a", "\n", "\n\n", " b", "<end>"], [0, 0, 0, 1, 1]),
    ("line", ["a", "\n", "\n", "<end>"], [0, 0, 0, 0]),
    ("line", ["\n", "\n", "a", ")\n", "a"], [0, 0, 0, 0, 1]),
    # Indentation belongs to its line, an empty indented line to the one before.
    ("line", ["a", "\n", " ", "a", "\n", " ", "\n", "a"], [0, 0, 1, 1, 1, 1, 1, 2]),
    ("line", ["\n", "\n"], [0, 0]),
    ("sentence", ["a", ".", " b", "!", "<end>"], [0, 0, 1, 1, 1]),
    # 3.14 is a number, and ... is one end.
    ("sentence", ["14", ".", "14", ".", ".", ".", " b"], [0, 0, 0, 0, 0, 0, 1]),
    ("sentence", ["a", "?)", " ", " b", "。", "a"], [0, 0, 1, 1, 1, 2]),
    ("sentence", ["d! e", "a", " c.", "\n", "a"], [0, 1, 1, 2, 2]),
    ("delimiter", ["a", "a", "a", " b", "14", "14", " b"], [0, 0, 0, 0, 0, 0, 1]),
    ("delimiter", [" b", "a", "a", "a", " b", "14", "14", " b"], [0, 0, 0, 0, 1, 1, 1, 2]),
]


@pytest.mark.parametrize(("step", "texts", "expected"), BY_HAND)
def test_by_hand(step: str, texts: list[str], expected: list[int]) -> None:
    ids = ids_of(*texts)
    delimiters = [[0, 0], [2]] if step == "delimiter" else None
    result = make_step_ids(step, torch.ones_like(ids), ids, table=TABLE, delimiters=delimiters)
    assert result is not None
    assert result.tolist() == [expected]


def test_a_masked_span() -> None:
    """It ends turns; a line goes on behind it; nothing in it or across it ends anything."""
    ids = ids_of("a", "\n", "a", " b", "a", "\n", "a")
    mask = torch.tensor([[1, 0, 0, 1, 1, 1, 1]])
    assert make("line", mask, ids).tolist() == [[0, 0, 0, 0, 0, 0, 1]]
    assert make("turn", mask, ids).tolist() == [[0, 0, 0, 1, 1, 1, 1]]
    # "a" "a" is a delimiter, but not around a tool's words.
    ids, mask = ids_of("a", " b", "a", " b"), torch.tensor([[1, 0, 1, 1]])
    assert make("delimiter", mask, ids).tolist() == [[0, 0, 0, 0]]
    # Nothing follows a full stop where the model stopped, whatever the tool said.
    ids, mask = ids_of("a", ".", "14", "14", "a"), torch.tensor([[1, 1, 0, 1, 1]])
    assert make("sentence", mask, ids).tolist() == [[0, 0, 0, 1, 1]]


def test_a_token_is_a_step_without_ids() -> None:
    assert make_step_ids("token", torch.ones(2, 3)) is None


@pytest.mark.parametrize("step", ["line", "sentence", "turn", "delimiter"])
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0)])
def test_empty_batches(step: str, shape: tuple[int, int]) -> None:
    empty = torch.zeros(shape, dtype=torch.int64)
    assert make(step, empty, empty).shape == shape
    if shape[0]:
        nothing = jagged(empty, torch.zeros(shape[0], dtype=torch.int64))
        assert len(make(step, nothing, nothing).values()) == 0


def test_an_empty_table_knows_no_token() -> None:
    none = torch.zeros(0, dtype=torch.bool)
    ids = ids_of("a", "\n", "a")
    assert make("line", torch.ones_like(ids), ids, TokenTable(*[none] * 6)).tolist() == [[0, 0, 0]]


MASK = torch.ones(2, 3, dtype=torch.int64)
ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"step": "word"}, "step='word' is not one of 'token', 'line', 'sentence', 'turn', 'delimiter'"),
    ({"step": "line", "delimiters": [[1]]}, "step='line' and delimiters=[[1]]: step='delimiter' needs them"),
    ({"step": "delimiter"}, "step='delimiter' and delimiters=None: step='delimiter' needs them"),
    ({"step": "delimiter", "delimiters": []}, "delimiters must hold at least one token sequence"),
    ({"step": "delimiter", "delimiters": [[1], []]}, "delimiters[1] is empty"),
    ({"step": "line", "token_ids": None}, "step='line' needs token_ids"),
    ({"step": "sentence", "table": None}, "step='sentence' needs the table of the tokenizer: TokenTable.of(tokenizer)"),
    ({"token_ids": torch.ones(2, 3)}, "token_ids must be integers, got torch.float32"),
    ({"token_ids": MASK[:, :2]}, "token_ids has shape (2, 2), response_mask has (2, 3)"),
    ({"token_ids": jagged(MASK, torch.tensor([3, 2]))}, "token_ids has layout torch.jagged, response_mask has"),
    ({"response_mask": MASK[0]}, "response_mask must be 2-D (B, T), got shape (3,)"),
    (
        {
            "response_mask": jagged(MASK, torch.tensor([3, 2])),
            "token_ids": jagged(MASK, torch.tensor([3, 1])),
        },
        "token_ids has 1 tokens in row 1, response_mask has 2",
    ),
    (
        {"response_mask": jagged(MASK, torch.tensor([3, 2])), "token_ids": jagged(MASK[:1], torch.tensor([3]))},
        "token_ids has 1 rows, response_mask has 2",
    ),
]


@pytest.mark.parametrize(("changes", "message"), ERRORS)
def test_errors(changes: dict[str, Any], message: str) -> None:
    arguments = {"step": "line", "response_mask": MASK, "token_ids": MASK, "table": TABLE, **changes}
    step, mask, ids = (arguments.pop(name) for name in ("step", "response_mask", "token_ids"))
    with pytest.raises(ValueError, match=re.escape(message)):
        make_step_ids(step, mask, ids, **arguments)


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained so that lines and sentences end within merged tokens."""
    text = "f(x)\n\n    y = 3.14.\nYes. No! (why?) (who?) Z\n\n" * 50
    inner = Tokenizer(models.BPE())
    # Qwen2's: punctuation takes the newlines behind it along.
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    inner.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>")


def test_a_byte_level_tokenizer() -> None:
    tokenizer = byte_level_tokenizer()
    table = TokenTable.of(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    merged = [index for index, piece in enumerate(pieces) if "Ċ" in piece and len(piece) > 1]
    assert len(merged) > 2
    for index, piece in enumerate(pieces):
        assert bool(table.ends_line[index]) == ("Ċ" in piece)
        if piece.startswith(("Ġ", "Ċ")):
            assert table.lets_sentence_end[index]
        if set(piece) <= {"Ġ", "Ċ", "ĉ"}:
            assert table.blank[index]
    for special in (tokenizer.eos_token_id, tokenizer.pad_token_id):
        assert table.blank[special]
        assert not table.ends_line[special]
    # One byte of a character that takes several is no white space and no end.
    part = tokenizer.encode("é", add_special_tokens=False)[0]
    assert not table.blank[part]
    assert not table.ends_sentence[part]
    # Not made twice, unless tokens have been added.
    assert TokenTable.of(tokenizer) is table
    tokenizer.add_tokens(["<line>\n"])
    assert TokenTable.of(tokenizer).ends_line[-1]


@pytest.mark.parametrize(
    ("step", "text", "expected"),
    [
        ("line", "f(x)\n\n    y = 3.14.\nYes", ["f(x)\n\n", "    y = 3.14.\n", "Yes"]),
        ("sentence", "y = 3.14. Yes. No! (why?) Z", ["y = 3.14.", " Yes.", " No!", " (why?)", " Z"]),
    ],
)
def test_the_text_of_each_step(step: str, text: str, expected: list[str]) -> None:
    """Merged tokens and all, the steps are the lines or sentences of the text."""
    tokenizer = byte_level_tokenizer()
    ids = torch.tensor([[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]])
    steps = make_step_ids(step, torch.ones_like(ids), ids, table=TokenTable.of(tokenizer))
    assert steps is not None
    found = [tokenizer.decode(ids[steps == number]) for number in range(int(steps.max()) + 1)]
    # A merged token may take the white space behind an end along.
    assert [one.removesuffix("<|end|>").strip() for one in found] == [one.strip() for one in expected]
    assert "".join(found) == text + "<|end|>"


def test_a_sentencepiece_tokenizer() -> None:
    vocab = {piece: index for index, piece in enumerate(["<unk>", "▁a", "b", ".", "▁", "<0x0A>"])}
    inner = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    # As Llama's: the first space of a text is lost.
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    table = TokenTable.of(tokenizer)
    assert table.lets_sentence_end.tolist() == [True, True, False, False, True, True]
    assert table.blank.tolist() == [True, False, False, False, True, True]
    assert table.ends_line.tolist() == [False] * 5 + [True]


def test_delimiters_by_the_tokenizer() -> None:
    tokenizer = byte_level_tokenizer()
    first, second, *single = tokenize_delimiters(tokenizer, ["Yes. ", "<|end|>"])
    assert [tokenizer.decode(one) for one in (first, second)] == ["Yes. ", "<|end|>"]
    assert not single
    with pytest.raises(ValueError, match="the tokenizer makes no token of the delimiter ''"):
        tokenize_delimiters(tokenizer, [""])


def test_delimiters_inside_merged_tokens() -> None:
    tokenizer = byte_level_tokenizer()
    delimiters = tokenize_delimiters(tokenizer, ["\n\n", "es"])
    texts = {tokenizer.decode(one) for one in delimiters}
    assert {"\n\n", ")\n\n", "es"} <= texts
    assert all("\n\n" in text or "es" in text for text in texts)
    assert len({tuple(one) for one in delimiters}) == len(delimiters)
    text = "f(x)\n\nA Yes. Z"
    ids = torch.tensor([tokenizer.encode(text)])
    steps = make_step_ids("delimiter", torch.ones_like(ids), ids, delimiters=delimiters)
    assert steps is not None
    assert [tokenizer.decode(ids[steps == number]) for number in range(3)] == ["f(x)\n\n", "A Yes", ". Z"]


def test_every_step_is_covered_here() -> None:
    assert STEPS == ("token", "line", "sentence", "turn", "delimiter")
