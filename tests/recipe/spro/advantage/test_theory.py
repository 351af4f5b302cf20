"""What the process term is in expectation, by exact enumeration of a toy decision process.

By the score-function identity the part of CPR before a token has mean zero against that token's score, and
E[d * grad log pi] = grad KL(pi || pi_ref). So the MSA term adds +beta * (1 - 1/n) * grad KL at each state: a bonus for
distance from the reference. The factor is 1 without the own response in the baseline.
"""

import itertools

import pytest
import torch

from recipe.spro.advantage import spro_advantage_naive

BETA = 0.7


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("stops", [False, True], ids=["all_of_two_tokens", "token_1_ends_the_response"])
@pytest.mark.parametrize("baseline", ["group", "loo", "none"])
def test_msa_is_a_negative_local_kl_penalty(n: int, stops: bool, baseline: str) -> None:
    """Two tokens, two positions; the states are the start, "after 0" and "after 1"; every group of n responses."""
    rng = torch.Generator().manual_seed(n)
    logits = torch.randn(3, 2, generator=rng, dtype=torch.float64).requires_grad_()
    log_pi = logits.log_softmax(-1)
    log_ref = torch.randn(3, 2, generator=rng, dtype=torch.float64).log_softmax(-1)

    responses = torch.tensor(list(itertools.product([0, 1], repeat=2)))
    states = torch.stack([torch.zeros(4, dtype=torch.int64), 1 + responses[:, 0]], 1)
    mask = torch.ones(4, 2, dtype=torch.int64)
    if stops:
        # Of the two responses that begin with 1 one stands for both: the other has probability 0.
        mask[responses[:, 0] == 1, 1] = 0
    log_p = (log_pi.detach()[states, responses] * mask).sum(1)
    if stops:
        log_p[3] = -torch.inf

    groups = torch.tensor(list(itertools.product(range(4), repeat=n)))
    p_G = log_p[groups].sum(1).exp()
    rows = groups.flatten()
    p_row = p_G.repeat_interleave(n)
    _, parts = spro_advantage_naive(
        log_pi[states, responses][rows],
        log_ref[states, responses][rows],
        mask[rows],
        torch.zeros(len(rows)),
        torch.arange(len(groups)).repeat_interleave(n),
        beta=BETA,
        baseline=baseline,
        return_parts=True,
    )
    policy_gradient = (p_row[:, None] / n * parts.msa * log_pi[states, responses][rows] * mask[rows]).sum()
    (got,) = torch.autograd.grad(policy_gradient, logits, retain_graph=True)

    # The local KL of each state, weighted by how often it is met: with what its n_t make of the baseline.
    alive = parts.alive.clamp(min=1).double()
    if baseline == "group":
        factor = 1 - 1 / alive
    elif baseline == "loo":
        # Alone there is no term at all.
        factor = (alive > 1).double()
    else:
        factor = torch.ones_like(parts.msa)
    weight = torch.zeros(3, dtype=torch.float64)
    weight.index_add_(0, states[rows].flatten(), (p_row[:, None] / n * factor * mask[rows]).flatten())
    kl = (log_pi.exp() * (log_pi - log_ref)).sum(-1)
    (expected,) = torch.autograd.grad(BETA * (weight * kl).sum(), logits)

    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)
    if not stops and baseline == "group":
        # Nobody ends early: n_t = n, the factor of the method's description.
        visits = torch.cat([torch.ones(1), log_pi[0].exp().detach()])
        torch.testing.assert_close(weight, (1 - 1 / n) * visits, rtol=0, atol=1e-14)
