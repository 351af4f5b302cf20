"""The public PRIME advantage: checks, two compiled passes over the tokens, and numbers per row between them.

Legend: B rows (responses), G groups (prompts).
"""

from dataclasses import dataclass

import numpy as np
import torch

from recipe.prime_v1.advantage import cpu_kernels as kernels
from recipe.prime_v1.advantage.options import NORM_EPS, VARIANCE_EPS, Options
from recipe.spro.advantage import buffers
from recipe.spro.advantage.arguments import Arguments, NeedsCare, check_arguments
from recipe.spro.advantage.cpu_kernels import Flat, Members
from recipe.spro.advantage.fused_cpu import flat, in_threads, plain_mask
from recipe.spro.advantage.groups import Groups
from recipe.spro.advantage.inputs import check_inputs
from recipe.spro.advantage.rows import Rows


@torch.no_grad()
def prime_advantage(
    rm_log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    outcome_rewards: torch.Tensor,
    group_ids: torch.Tensor | np.ndarray,
    *,
    beta: float = 0.05,
    reward_dpo_coef: float = 5.0,
    reward_gt_coef: float = 5.0,
    form: str = "upstream",
    prime_granularity: str = "token",
    prime_norm: str = "batch_norm",
) -> tuple[torch.Tensor, torch.Tensor]:
    """The advantage of PRIME (arXiv 2502.01456): implicit process rewards and outcomes, leave-one-out, whitened.

    A token's process reward is beta * (log pi_phi - log pi_ref), phi being the reward model; the outcome stands at the
    last valid token. n counts a group's rows that have a valid token.

    "upstream" is what verl-recipe's code does. The process reward of a row's last valid token is dropped ("token"), and
    all of them are divided by the largest absolute reverse cumulative sum + 1e-6 ("batch_norm"). Then each source
    becomes x * n / (n - 1) - (sum of the rows' mean x) / (n - 1), times its coefficient, where the mean is over the
    places of that source: valid tokens, or the last one. Their sum is added up from the end, and that is whitened.
    Departures, where it cannot be followed or would be wrong:
      - that maximum is over the batch, not over the part of one data-parallel rank, which nothing here knows of;
      - "whole" puts the row's sum on its last valid token. Upstream assigns a vector to that place, which raises for
        every response of more than one token;
      - what the environment wrote (mask 0 inside a response) counts nowhere; upstream counts it in the maximum, and
        takes the last token of the response for the last valid one;
      - results are 0 at masked places.

    "paper" is its equation, with gamma 1: A_t = sum over s >= t of (r_s - mean over the other rows j of the mean r of
    j), plus the outcome less the others' mean outcome. The coefficients weigh the two here as well, and it is whitened
    as upstream's. It has neither a norm nor a dropped token.

    In both, a row alone in its group has no baseline and keeps its rewards, as in verl's RLOO (upstream divides by 0).
    A row without a valid token has no place to put a reward: it enters nobody's baseline, with its outcome neither
    (upstream: NaN in its group). Whitening is verl's masked_whiten, (x - mean) / sqrt(var + 1e-8) with the unbiased
    variance over the batch's valid tokens; where there are fewer than two (verl raises) advantages are 0.

    (B, T) may also be a nested tensor of layout torch.jagged, (B, t_i); then all of rm_log_probs, ref_log_probs and
    response_mask are, with equal lengths, and so are the results. Whatever stands at masked places, NaN included, has
    no effect. Tensors on an accelerator are computed on the host and brought back.

    Args:
        rm_log_probs: (B, T) float32 (float64 also), in nats: of the reward model, of the sampled tokens.
        ref_log_probs: (B, T), like rm_log_probs: of the reward model's reference.
        response_mask: (B, T) bool or 0/1: 1 where the policy chose the token. Zeros may stand anywhere.
        outcome_rewards: (B,) finite, the outcome of each response, in [0, 1] by the reward model's training.
        group_ids: (B,) integer tensor, or numpy array of uids. Rows in any order, groups of any size.
        beta: weight of the log-ratio, finite and >= 0. Without effect but for the eps under batch_norm.
        reward_dpo_coef: weight of the process rewards, >= 0.
        reward_gt_coef: weight of the outcomes, >= 0.
        form: "upstream" or "paper", which needs prime_norm="none" and prime_granularity="token".
        prime_granularity: "token", or "whole": the sum of a row's rewards on its last valid token.
        prime_norm: "batch_norm" or "none".

    Returns:
        advantages, returns: (B, T) float32, layout and device of rm_log_probs, 0 at masked places. The returns are the
        advantages before whitening.

    Raises:
        ValueError: an option that is not allowed; shapes that differ; a mask that is not 0/1; a non-finite log-prob at
            a valid place or outcome anywhere; sums too large for float32. Names the argument and, if any, the row.
        TypeError: log-probs in bfloat16 or float16, or no tensor.
    """
    options = Options(beta, reward_dpo_coef, reward_gt_coef, form, prime_granularity, prime_norm)
    inputs = (rm_log_probs, ref_log_probs, response_mask, outcome_rewards, group_ids)
    return prime_advantage_with_stats(*inputs, options)[:2]


@dataclass(frozen=True)
class PrimeStats:
    """How much of the returns each source is, over the valid tokens of a batch; each includes its coefficient."""

    process_square_sum: float
    outcome_square_sum: float


@torch.no_grad()
def prime_advantage_with_stats(
    rm_log_probs: torch.Tensor,
    ref_log_probs: torch.Tensor,
    response_mask: torch.Tensor,
    outcome_rewards: torch.Tensor,
    group_ids: torch.Tensor | np.ndarray,
    options: Options,
) -> tuple[torch.Tensor, torch.Tensor, PrimeStats]:
    """`prime_advantage`, and how large its two parts are: from numbers per row, without the parts themselves."""
    # Jagged tensors are a subclass in Python, whose every attribute costs microseconds while torch functions are on.
    with torch._C.DisableTorchFunctionSubclass():
        arguments = check_arguments(
            rm_log_probs, ref_log_probs, response_mask, outcome_rewards, group_ids, None, name="rm_log_probs"
        )
        try:
            return _compute(arguments, options)
        except NeedsCare:
            # Raises where a value is not allowed, and names its place.
            check_inputs(arguments)
            raise ValueError(
                "the log-ratios of rm_log_probs and ref_log_probs add up to more than float32 holds: "
                "these are no log-probs of sampled tokens"
            ) from None


@dataclass(frozen=True)
class _Process:
    """What the first pass finds of each row, in units of the log-ratio; all (B,)."""

    ends: np.ndarray  # int64, where the last valid token ends
    counts: np.ndarray  # int64, valid tokens
    totals: np.ndarray  # float64, sum of the rewards
    sums: np.ndarray  # float64, sum of P, the process term, over valid tokens
    squares: np.ndarray  # float64, sum of P^2
    largest: np.ndarray  # float64, maximum of the absolute reverse cumulative sum

    @classmethod
    def empty(cls, rows: int) -> "_Process":
        return cls(np.empty(rows, np.int64), np.empty(rows, np.int64), *(np.empty(rows) for _ in range(4)))


def _compute(arguments: Arguments, options: Options) -> tuple[torch.Tensor, torch.Tensor, PrimeStats]:
    """Advantages and returns, and how large the parts of the returns are.

    Raises:
        NeedsCare: a mask that is not 0/1, or a log-ratio that is not finite or adds up to more than 1e30.
    """
    like = arguments.log_probs
    mask = _host(plain_mask(arguments.mask))
    lengths = like.lengths().cpu().numpy()
    advantage_rows, return_rows = _results(like)
    advantages, returns = _host(advantage_rows), _host(return_rows)
    groups, process = arguments.groups, _Process.empty(like.count)
    inputs = (Members(groups.rows, groups.starts), lengths, _host(like), _host(arguments.ref_log_probs), mask)
    kind = kernels.PAPER
    if options.form == "upstream":
        kind = kernels.UPSTREAM_TOKEN if options.prime_granularity == "token" else kernels.UPSTREAM_WHOLE
    found = (process.ends, process.counts, process.totals, process.sums, process.squares, process.largest)

    def process_terms(first: int, end: int) -> bool:
        return kernels.process_terms(first, end, *inputs, returns, kind, *found)

    tokens_of_group = np.add.reduceat(lengths[groups.rows], groups.starts[:-1]) if like.count else lengths
    if not all(in_threads(tokens_of_group, process_terms)):
        raise NeedsCare

    # returns = scale * P + offset.
    scale = float(options.reward_dpo_coef) * float(options.beta)
    if options.prime_norm == "batch_norm":
        scale /= float(options.beta) * process.largest.max(initial=0.0) + NORM_EPS
    present = process.counts > 0
    outcome = float(options.reward_gt_coef) * _leave_one_out(arguments.rewards, groups, present)
    at_the_end = np.zeros(like.count)
    if kind == kernels.UPSTREAM_WHOLE:
        # The row's sum stands at its last valid token, so at each token all of it is still to come.
        sizes = np.bincount(groups.index[present], minlength=len(groups))[groups.index]
        at_the_end = scale * process.totals * np.where(sizes > 1, sizes / np.maximum(sizes - 1, 1), 1.0)
    offsets = outcome + at_the_end
    mean, inverse_std = _whitening(process, scale, offsets)
    white = (inverse_std * scale, inverse_std * (offsets - mean))

    def finish(first: int, end: int) -> None:
        kernels.returns_and_advantages(
            first, end, lengths, process.ends, mask, returns, advantages, scale, offsets, *white
        )

    in_threads(lengths, finish)
    stats = PrimeStats(
        float((scale**2 * process.squares + 2 * scale * at_the_end * process.sums).sum())
        + float((process.counts * at_the_end**2).sum()),
        float((process.counts * outcome**2).sum()),
    )
    return _on_device(advantage_rows, advantages), _on_device(return_rows, returns), stats


def _leave_one_out(rewards: np.ndarray, groups: Groups, present: np.ndarray) -> np.ndarray:
    """(B,) each outcome less the mean of the others', of those present; alone: the outcome itself.

    The same as r * n / (n - 1) - sum / (n - 1), in both forms.
    """
    index, number = groups.index, len(groups)
    sizes = np.bincount(index[present], minlength=number)[index]
    # Measured from one of the group's own, equal outcomes leave exactly 0.
    first = rewards[groups.rows[groups.starts[:-1]]][index]
    above = np.where(present, rewards - first, 0.0)
    others = np.bincount(index, weights=above, minlength=number)[index] - above
    return np.where(sizes > 1, above - others / np.maximum(sizes - 1, 1), rewards)


def _whitening(process: _Process, scale: float, offsets: np.ndarray) -> tuple[float, float]:
    """The mean and 1 / sqrt(var + 1e-8) of scale * P + offset over valid tokens; 0 and 0 for fewer than two."""
    count = int(process.counts.sum())
    if count < 2:
        return 0.0, 0.0
    counts = np.maximum(process.counts, 1)
    row_means = scale * process.sums / counts + offsets
    mean = float((process.counts * row_means).sum() / count)
    # Within rows and between them: no difference of two large sums.
    within = scale**2 * np.maximum(process.squares - process.sums**2 / counts, 0.0)
    variance = float((within + process.counts * (row_means - mean) ** 2).sum() / (count - 1))
    return mean, (variance + VARIANCE_EPS) ** -0.5


def _results(like: Rows) -> tuple[Rows, Rows]:
    """Room for two results in the layout of `like`, taken at once: the memory that is kept is one piece."""
    if like.values.device.type != "cpu" or like.holes is not None:
        return like.empty_like(), like.empty_like()
    size = like.size()
    # To the start of a cache line.
    second = -(-size // 16) * 16
    both = buffers.empty(second + size)
    return like.over(both[:size]), like.over(both[second:])


def _host(rows: Rows) -> Flat:
    """What the kernels take, copied if it is not on the host."""
    if rows.values.device.type == "cpu":
        return flat(rows)
    values = rows.values.cpu()
    offsets = None if rows.offsets is None else rows.offsets.cpu()
    return flat(Rows(values, rows.count, rows.width, rows.step, offsets))


def _on_device(rows: Rows, computed: Flat) -> torch.Tensor:
    if rows.values.device.type != "cpu":
        rows.values.copy_(torch.from_numpy(computed.values))
    return rows.tensor()
