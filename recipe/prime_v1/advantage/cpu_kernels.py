"""The loops of the PRIME advantage on the CPU, compiled by numba. Bare: `fast` checks and calls them.

Whitening needs the whole batch's mean and variance, and batch_norm its maximum, so there are two passes. The first
takes a group at a time, twice while it is in the cache: its baselines, then the process term P of each token, which
is left in `out` in float32. The second turns P into returns and advantages, both linear in it.

Legend: B rows, G groups; a batch's tensor is a `Flat`, whose row r holds `lengths[r]` values from `starts[r]` on. P is
in units of the log-ratio: beta, norm and coefficient come with the second pass.
"""

import numpy as np

from recipe.spro.advantage.cpu_kernels import HUGE, masked_total
from recipe.spro.advantage.cpu_vectors import inline, jit

# What `kind` is in here: upstream's form with rewards per token or for the whole response, and the paper's.
UPSTREAM_TOKEN, UPSTREAM_WHOLE, PAPER = 0, 1, 2


@inline
def _count(mask):
    """How many tokens are valid, where the last of them ends, and whether it is a mask at all."""
    some = mask[0] & 0
    valid = 0
    for t in range(len(mask)):
        some |= mask[t]
        valid += 1 if mask[t] else 0
    end = len(mask)
    while end > 0 and mask[end - 1] == 0:
        end -= 1
    return valid, end, some == 0 or some == 1


@inline
def _process(log_probs, ref_log_probs, mask, out, last, factor, baseline):
    """out = factor * S - baseline * K at valid tokens, 0 at others, from the last token to the first.

    S is the reverse cumulative sum of the log-ratios, that of the last token being `last`; K counts the valid tokens
    from here to the end. Returns the sum and the sum of squares of what is written, and the maximum of abs(S).
    """
    suffix, left = last, 1.0
    value = factor * suffix - baseline
    end = len(mask)
    out[end - 1] = value
    added, squared, largest = value, value * value, abs(suffix)
    for i in range(1, end):
        t = end - 1 - i
        ratio = np.float64(log_probs[t]) - np.float64(ref_log_probs[t])
        inside = mask[t] != 0
        suffix += ratio if inside else 0.0
        left += 1.0 if inside else 0.0
        value = factor * suffix - baseline * left if inside else 0.0
        out[t] = value
        added += value
        squared += value * value
        largest = abs(suffix) if abs(suffix) > largest else largest
    return added, squared, largest


@inline
def _countdown(mask, out, baseline):
    """The same where S is 0: all reward is at the last token, and added with the second pass."""
    left, added, squared = 0.0, 0.0, 0.0
    for i in range(len(mask)):
        t = len(mask) - 1 - i
        inside = mask[t] != 0
        left += 1.0 if inside else 0.0
        value = -baseline * left if inside else 0.0
        out[t] = value
        added += value
        squared += value * value
    return added, squared


@jit
def process_terms(
    first_group, end_group, groups, lengths, log_probs, ref_log_probs, mask, out, kind,
    ends, counts, totals, sums, squares, largest,
):  # fmt: skip
    """out = P at valid tokens, in float32, for some groups; places behind a row's last valid token are not written.

    Args:
        first_group, end_group: the range of groups to do.
        groups: `Members`; lengths: (B,) int64.
        log_probs, ref_log_probs, mask, out: `Flat`.
        kind: one of the constants above. With UPSTREAM_WHOLE, P leaves out what the row's total adds.
        ends, counts: (B,) int64, get where a row's last valid token ends and how many there are.
        totals, sums, squares, largest: (B,) float64, get each row's sum of rewards, the sum of P and of its squares,
            and the maximum of the absolute reverse cumulative sum.

    Returns:
        Whether all is well; if not, a mask is not 0/1 or a log-ratio is not finite or huge, and `out` is void.
    """
    fine = True
    for group in range(first_group, end_group):
        present, mean_sum = 0, 0.0
        for k in range(groups.starts[group], groups.starts[group + 1]):
            row = groups.rows[k]
            counts[row], ends[row], totals[row] = 0, 0, 0.0
            sums[row], squares[row], largest[row] = 0.0, 0.0, 0.0
            if lengths[row] == 0:
                continue
            at, ref_at, mask_at = log_probs.starts[row], ref_log_probs.starts[row], mask.starts[row]
            counts[row], end, is_mask = _count(mask.values[mask_at : mask_at + lengths[row]])
            ends[row] = end
            fine &= is_mask
            if end == 0:
                continue
            # The last token's reward is not upstream's, but a value that is not finite is an error there too.
            own = log_probs.values[at : at + end]
            reference, inside = ref_log_probs.values[ref_at : ref_at + end], mask.values[mask_at : mask_at + end]
            total = masked_total(own[: end - 1], reference[: end - 1], inside[: end - 1])
            last = np.float64(own[end - 1]) - np.float64(reference[end - 1])
            # A comparison, which NaN fails too: isfinite asks for x - x == 0, which reordered is true of any a - b.
            fine &= abs(total) < HUGE and abs(last) < HUGE
            totals[row] = total if kind == UPSTREAM_TOKEN else total + last
            mean_sum += totals[row] / counts[row]
            present += 1

        for k in range(groups.starts[group], groups.starts[group + 1]):
            row = groups.rows[k]
            end = ends[row]
            if end == 0:
                continue
            # A row alone has no baseline and keeps its rewards, as in verl's RLOO.
            factor, baseline = 1.0, 0.0
            if present > 1:
                if kind == PAPER:
                    baseline = (mean_sum - totals[row] / counts[row]) / (present - 1.0)
                else:
                    factor, baseline = present / (present - 1.0), mean_sum / (present - 1.0)
            at, ref_at, mask_at = log_probs.starts[row], ref_log_probs.starts[row], mask.starts[row]
            own, reference = log_probs.values[at : at + end], ref_log_probs.values[ref_at : ref_at + end]
            inside, target = mask.values[mask_at : mask_at + end], out.values[out.starts[row] : out.starts[row] + end]
            if kind == UPSTREAM_WHOLE:
                sums[row], squares[row] = _countdown(inside, target, baseline)
                largest[row] = abs(totals[row])
            else:
                final = np.float64(own[end - 1]) - np.float64(reference[end - 1]) if kind == PAPER else 0.0
                sums[row], squares[row], largest[row] = _process(
                    own, reference, inside, target, final, factor, baseline
                )
            fine &= largest[row] < HUGE
    return fine


@jit
def returns_and_advantages(
    first_row, end_row, lengths, ends, mask, returns, advantages, scale, offsets, white_scale, white_offsets
):
    """returns = scale * P + offset and advantages = white_scale * P + white_offset; 0 at masked places.

    `returns`, a `Flat`, holds P up to each row's `ends`; the offsets are (B,) float64.
    """
    scale32, white_scale32 = np.float32(scale), np.float32(white_scale)
    for row in range(first_row, end_row):
        at, white_at, mask_at, end = returns.starts[row], advantages.starts[row], mask.starts[row], ends[row]
        inside = mask.values[mask_at : mask_at + end]
        plain, white = returns.values[at : at + lengths[row]], advantages.values[white_at : white_at + lengths[row]]
        offset32, white_offset32 = np.float32(offsets[row]), np.float32(white_offsets[row])
        for t in range(len(inside)):
            value = plain[t]
            plain[t] = scale32 * value + offset32 if inside[t] else np.float32(0.0)
            white[t] = white_scale32 * value + white_offset32 if inside[t] else np.float32(0.0)
        for t in range(end, lengths[row]):
            plain[t] = np.float32(0.0)
            white[t] = np.float32(0.0)
