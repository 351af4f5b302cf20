"""The tables of an evaluation, and of several for `scripts.compare report`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scripts.compare.statistics import Estimate
from scripts.evaluate.results import Asked, Evaluation, SetResult
from scripts.evaluate.scores import Scores
from scripts.tables import NONE, Cell, Table, amount

NOTE = (
    "95 % intervals: greedy Wilson's, the others the bootstrap over problems (Wilson's where all problems are equal). "
    "avg@k: mean accuracy of k samples; pass@k: unbiased (Chen et al. 2021, arXiv 2107.03374). Truncated: responses "
    "that do not end by themselves. Lengths and truncation are of the samples where there are any, else of the greedy "
    "responses. Ungraded: the verifier or its infrastructure failed; neither right nor wrong, and left out."
)

KINDS_NOTE = (
    "correct and wrong are judgements; no answer was found in an unparseable response, one that timed out ran past its "
    "deadline: both are not correct. grader_error and infra_error are ungraded."
)


def share(value: Estimate | None) -> Cell:
    """A share with its interval."""
    if value is None or math.isnan(value.mean):
        return Cell(NONE)
    if value.low is None or value.high is None:
        return Cell(amount(value.mean, 3))
    return Cell(amount(value.mean, 3), f"{amount(value.low, 3)} to {amount(value.high, 3)}")


def _ungraded(asked: Sequence[Asked | None]) -> Cell:
    """How many, and what they could change."""
    parts = [each.scores for each in asked if each]
    count = sum(each.ungraded for each in parts)
    bounds = "; ".join(f"accuracy {low:.3f} to {high:.3f}" for low, high in (e.bounds for e in parts if e.bounds))
    return Cell(f"{count:,}", bounds, bad=count > 0)


def _columns(ks: Sequence[int]) -> list[str]:
    passes = [f"pass@{k}" for k in ks if k > 1]
    return ["problems", "greedy", "avg@k", *passes, "ungraded", "tokens, mean", "truncated"]


def _cells(
    problems: int, greedy: Scores | None, sampled: Scores | None, ks: Sequence[int], ungraded: Cell
) -> list[Cell]:
    shown = sampled or greedy
    assert shown is not None
    average = share(sampled.accuracy) if sampled else Cell(NONE)
    if sampled and average.text != NONE:
        k = f"k = {sampled.responses // sampled.problems}"
        average = Cell(average.text, "; ".join(filter(None, (k, average.sub))))
    return [
        Cell(f"{problems:,}"),
        share(greedy.accuracy if greedy else None),
        average,
        *(share(sampled.pass_at.get(k) if sampled else None) for k in ks if k > 1),
        ungraded,
        Cell(
            amount(shown.lengths.mean), f"95 % up to {amount(shown.lengths.p95)}, longest {amount(shown.lengths.max)}"
        ),
        Cell(f"{shown.truncated:.1%}"),
    ]


def _row(result: SetResult, ks: Sequence[int]) -> list[Cell]:
    greedy, sampled = (each.scores if each else None for each in (result.greedy, result.sampled))
    return _cells(result.problems, greedy, sampled, ks, _ungraded([result.greedy, result.sampled]))


def overview(evaluation: Evaluation) -> Table:
    """One row a set."""
    rows = [[Cell(each.name), *_row(each, evaluation.ks)] for each in evaluation.sets]
    return Table(["set", *_columns(evaluation.ks)], rows, note=NOTE)


def side_by_side(evaluations: Sequence[Evaluation]) -> Table:
    """One row a model and set, set by set."""
    ks = sorted({k for each in evaluations for k in each.ks})
    names = dict.fromkeys(result.name for each in evaluations for result in each.sets)
    rows = []
    for name in names:
        for each in evaluations:
            rows += [[Cell(f"{name}: {each.label}"), *_row(r, ks)] for r in each.sets if r.name == name]
    return Table(["set and model", *_columns(ks)], rows, note=NOTE)


def categories(result: SetResult, column: str, ks: Sequence[int]) -> Table:
    """One row a value of one column."""
    greedy, sampled = (each.categories.get(column, {}) if each else {} for each in (result.greedy, result.sampled))
    rows = []
    for value in sorted({*greedy, *sampled}):
        of_greedy, of_sampled = greedy.get(value), sampled.get(value)
        parts = [each for each in (of_greedy, of_sampled) if each]
        count = sum(each.ungraded for each in parts)
        cells = _cells(parts[0].problems, of_greedy, of_sampled, ks, Cell(f"{count:,}", bad=count > 0))
        rows.append([Cell(value or NONE), *cells])
    return Table([column, *_columns(ks)], rows)


def kinds(evaluation: Evaluation) -> Table:
    """Responses by kind of verdict."""
    asked = [(f"{each.name}, {way}", part) for each in evaluation.sets for way, part in _ways(each)]
    names = [kind for kind in _all_kinds() if any(kind in part.scores.kinds for _, part in asked)]
    rows = [
        [Cell(name), Cell(f"{part.scores.responses:,}"), *(Cell(f"{part.scores.kinds.get(k, 0):,}") for k in names)]
        for name, part in asked
    ]
    return Table(["set", "responses", *names], rows, note=KINDS_NOTE)


def _all_kinds() -> list[str]:
    from verl_ext.rewards.verdict import Kind

    return [str(kind) for kind in Kind]


def _ways(result: SetResult) -> list[tuple[str, Asked]]:
    return [(way, part) for way, part in (("greedy", result.greedy), ("sampled", result.sampled)) if part]


def markdown(evaluation: Evaluation) -> str:
    """The evaluation as a page."""
    parts = [f"# {evaluation.label}", _about(evaluation), overview(evaluation).markdown()]
    parts += ["## Verdicts", kinds(evaluation).markdown()]
    for each in evaluation.sets:
        columns = dict.fromkeys(column for _, part in _ways(each) for column in part.categories)
        for column in columns:
            parts += [f"## {each.name} by {column}", categories(each, column, evaluation.ks).markdown()]
    parts += ["## Made with", _made_with(evaluation)]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _about(evaluation: Evaluation) -> str:
    return f"`{evaluation.model['source']}`, weights {evaluation.model['digest'][:16]}"


def _made_with(evaluation: Evaluation) -> str:
    lines = [
        f"- {each.name}, {way}: " + ", ".join(f"{key} {value}" for key, value in part.sampling.items())
        for each in evaluation.sets
        for way, part in _ways(each)
    ]
    lines += [f"- versions: {', '.join(f'{name} {v}' for name, v in evaluation.made_with['versions'].items())}"]
    overrides = " ".join(f"`{override}`" for override in evaluation.made_with["overrides"])
    return "\n".join([*lines, f"- overrides: {overrides or 'none'}"])
