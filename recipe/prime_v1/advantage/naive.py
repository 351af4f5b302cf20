"""The oracle: PRIME's advantage line by line, plain loops over Python floats (float64), once per form.

Made to be read beside upstream's code and the paper, and to test the fast code against; it shares only checks with it.
"""

import math

import numpy as np
import torch

from recipe.prime_v1.advantage.options import NORM_EPS, VARIANCE_EPS, Options
from recipe.spro.advantage.arguments import check_arguments
from recipe.spro.advantage.inputs import check_inputs

# Of each row, the value at its valid tokens.
_Tokens = list[dict[int, float]]


@torch.no_grad()
def prime_advantage_naive(
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
    """`prime_advantage` in float64: the same arguments, options, shapes and errors, documented there."""
    options = Options(beta, reward_dpo_coef, reward_gt_coef, form, prime_granularity, prime_norm)
    arguments = check_arguments(
        rm_log_probs, ref_log_probs, response_mask, outcome_rewards, group_ids, None, name="rm_log_probs"
    )
    inputs = check_inputs(arguments)
    B, T = inputs.mask.shape
    log_phi, log_ref = inputs.log_probs.double().tolist(), inputs.ref_log_probs.double().tolist()
    valid = [[t for t in range(T) if inputs.mask[i, t]] for i in range(B)]
    # r_phi = beta * (log pi_phi - log pi_ref), the implicit process reward of a token.
    r = [{t: beta * (log_phi[i][t] - log_ref[i][t]) for t in valid[i]} for i in range(B)]
    # A row without a valid token has no reward of either source, and is in no group.
    present = [i for i in range(B) if valid[i]]
    group = arguments.groups.index.tolist()
    groups = [[i for i in present if group[i] == g] for g in dict.fromkeys(group[i] for i in present)]
    returns = (_upstream if form == "upstream" else _paper)(r, arguments.rewards.tolist(), groups, options)
    advantages = _whiten(returns)

    def dense(rows: _Tokens) -> torch.Tensor:
        out = torch.zeros(B, T, dtype=torch.float64)
        for i, row in enumerate(rows):
            for t, x in row.items():
                out[i, t] = x
        return inputs.in_layout(out.to(inputs.mask.device))

    return dense(advantages), dense(returns)


def _upstream(r: _Tokens, outcomes: list[float], groups: list[list[int]], options: Options) -> _Tokens:
    """As verl-recipe's prime: prime_dp_rm.py for the scores, compute_rloo_advantage_return for the rest."""
    scores: _Tokens = [{t: 0.0 for t in row} for row in r]
    for i, row in enumerate(r):
        if not row:
            continue
        last = max(row)
        if options.prime_granularity == "token":
            # `token_level_score[i, : max_positions[i] - 1] = r[i, : max_positions[i] - 1]`: the last one gets none.
            scores[i].update({t: row[t] for t in row if t != last})
        else:
            scores[i][last] = sum(row.values())
    if options.prime_norm == "batch_norm":
        largest = max((abs(x) for row in _reverse_cumsum(scores) for x in row.values()), default=0.0)
        scores = [{t: x / (largest + NORM_EPS) for t, x in row.items()} for row in scores]

    # The outcome stands at the last valid token, and that is the only place of its source.
    at_end: _Tokens = [{max(row): outcomes[i]} if row else {} for i, row in enumerate(r)]
    process, outcome = _masked_rloo(scores, groups), _masked_rloo(at_end, groups)
    final = [
        {t: options.reward_dpo_coef * x + options.reward_gt_coef * outcome[i].get(t, 0.0) for t, x in row.items()}
        for i, row in enumerate(process)
    ]
    return _reverse_cumsum(final)


def _masked_rloo(rewards: _Tokens, groups: list[list[int]]) -> _Tokens:
    """x * n / (n - 1) - (sum over the group of each row's mean) / (n - 1); a row alone keeps its rewards."""
    result: _Tokens = [{} for _ in rewards]
    for rows in groups:
        n = len(rows)
        means = [sum(rewards[i].values()) / len(rewards[i]) for i in rows]
        for i in rows:
            for t, x in rewards[i].items():
                result[i][t] = x * n / (n - 1) - sum(means) / (n - 1) if n > 1 else x
    return result


def _paper(r: _Tokens, outcomes: list[float], groups: list[list[int]], options: Options) -> _Tokens:
    """A_t = sum_{s>=t} [r_s - mean_{j!=i} mean_s r_j] + [r_o - mean_{j!=i} r_o,j], arXiv 2502.01456, gamma 1."""
    process: _Tokens = [{} for _ in r]
    outcome = [0.0] * len(r)
    for rows in groups:
        for i in rows:
            others = [j for j in rows if j != i]
            process_baseline = outcome_baseline = 0.0
            if others:
                process_baseline = sum(sum(r[j].values()) / len(r[j]) for j in others) / len(others)
                outcome_baseline = sum(outcomes[j] for j in others) / len(others)
            process[i] = {t: x - process_baseline for t, x in r[i].items()}
            outcome[i] = outcomes[i] - outcome_baseline
    return [
        {t: options.reward_dpo_coef * x + options.reward_gt_coef * outcome[i] for t, x in row.items()}
        for i, row in enumerate(_reverse_cumsum(process))
    ]


def _reverse_cumsum(rows: _Tokens) -> _Tokens:
    """At each valid token the sum from it to the end, over valid tokens."""
    result: _Tokens = [{} for _ in rows]
    for i, row in enumerate(rows):
        total = 0.0
        for t in sorted(row, reverse=True):
            total += row[t]
            result[i][t] = total
    return result


def _whiten(rows: _Tokens) -> _Tokens:
    """(x - mean) / sqrt(var + 1e-8) over the valid tokens of the batch, unbiased; 0 if there are fewer than two."""
    values = [x for row in rows for x in row.values()]
    if len(values) < 2:
        return [{t: 0.0 for t in row} for row in rows]
    mean = math.fsum(values) / len(values)
    variance = math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1)
    return [{t: (x - mean) / math.sqrt(variance + VARIANCE_EPS) for t, x in row.items()} for row in rows]
