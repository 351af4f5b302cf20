"""Sampling, log-probs and updates of the small model in this process: what vLLM and FSDP2 do in a run through verl.

Legend: B responses, P tokens of a prompt, T positions of a response, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, Qwen2ForCausalLM


@dataclass(frozen=True)
class Responses:
    """Sampled responses of prompts of one length.

    Attributes:
        ids: (B, P + T) prompt and response, padded on the right.
        prompt_length: P.
        mask: (B, T) int64, 1 up to and including the end of the sequence.
    """

    ids: torch.Tensor
    prompt_length: int
    mask: torch.Tensor

    @property
    def tokens(self) -> torch.Tensor:
        """(B, T) ids of the responses."""
        return self.ids[:, self.prompt_length :]

    def rows(self, part: slice) -> Responses:
        """Those rows."""
        return Responses(self.ids[part], self.prompt_length, self.mask[part])


@dataclass(frozen=True)
class Rollout:
    """Responses with what they scored.

    Attributes:
        responses: (B, T), those of a prompt side by side.
        scored: of each response its score, and other numbers to log the mean of.
        n: responses to a prompt.
        pad: id of the token that fills up on the right.
    """

    responses: Responses
    scored: list[tuple[float, dict[str, float]]]
    n: int
    pad: int

    def groups(self) -> Iterator[Rollout]:
        """Each prompt by itself."""
        for start in range(0, len(self.scored), self.n):
            part = slice(start, start + self.n)
            yield Rollout(self.responses.rows(part), self.scored[part], self.n, self.pad)


def joined(parts: Sequence[Rollout]) -> Rollout:
    """Rollouts one below the other, T that of the longest response in any; there is at least one."""
    first = parts[0]
    longest = max(int(part.responses.mask.sum(-1).max()) for part in parts)

    def widened(rows: torch.Tensor, width: int, filler: int) -> torch.Tensor:
        return torch.nn.functional.pad(rows[:, :width], (0, max(width - rows.shape[1], 0)), value=filler)

    width = first.responses.prompt_length + longest
    ids = torch.cat([widened(part.responses.ids, width, first.pad) for part in parts])
    mask = torch.cat([widened(part.responses.mask, longest, 0) for part in parts])
    scored = [one for part in parts for one in part.scored]
    return Rollout(Responses(ids, first.responses.prompt_length, mask), scored, first.n, first.pad)


@torch.no_grad()
def sample(
    model: Qwen2ForCausalLM,
    prompts: torch.Tensor,
    *,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None = None,
) -> Responses:
    """Continue prompts until the end of the sequence, or for ``max_new_tokens``.

    Args:
        model: with ``generation_config.eos_token_id`` and ``pad_token_id``.
        prompts: (B, P) ids of one length.
        max_new_tokens: bound on T.
        temperature: of sampling from the whole distribution; 0 is greedy.
        generator: of the samples.
    """
    end, pad = model.generation_config.eos_token_id, model.generation_config.pad_token_id
    cache, step = DynamicCache(config=model.config), prompts
    done = torch.zeros(len(prompts), dtype=torch.bool)
    tokens, masks = [], []
    for _ in range(max_new_tokens):
        logits = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        if temperature:
            chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        else:
            chosen = logits.argmax(-1, keepdim=True)
        masks.append(~done)
        tokens.append(torch.where(done[:, None], pad, chosen))
        done = done | (tokens[-1][:, 0] == end)
        if done.all():
            break
        step = tokens[-1]
    return Responses(torch.cat([prompts, *tokens], dim=1), prompts.shape[1], torch.stack(masks, dim=1).long())


def log_probs(
    model: Qwen2ForCausalLM, responses: Responses, *, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probs of the sampled tokens, teacher-forced, and the entropy of each distribution.

    Returns:
        (B, T) float32 natural-log units, and (B, T) nats or None. Padding is on the right, where causal attention never
        looks; masked places hold numbers of no meaning.
    """
    logits = model(input_ids=responses.ids[:, :-1], use_cache=False).logits[:, responses.prompt_length - 1 :]
    logits = logits.float() / temperature
    every = logits.log_softmax(-1)
    chosen = every.gather(-1, responses.tokens[..., None])[..., 0]
    entropy = -(every.exp() * every).sum(-1) if with_entropy else None
    return chosen, entropy


def update(model: Qwen2ForCausalLM, optimizer: torch.optim.Optimizer, loss: torch.Tensor, clip_grad: float) -> float:
    """One optimizer step down a loss; returns the norm of the gradients before they were clipped to ``clip_grad``."""
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
    # As verl's engine: such a step is left out.
    if torch.isfinite(norm):
        optimizer.step()
    return norm.item()
