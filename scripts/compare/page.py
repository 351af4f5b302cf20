"""The report as one HTML file: nothing is fetched, figures are inline SVG in the reader's theme."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from scripts.compare import notes, provenance, tables
from scripts.compare.comparison import BASELINE_NAME, Comparison
from scripts.compare.drawing import Picture, svg, swatch
from scripts.evaluate.results import Evaluation
from scripts.evaluate.tables import side_by_side
from scripts.html_page import html_page
from scripts.tables import Table

HERE = Path(__file__).parent

REACH_NOTE = (
    "Reaching an accuracy means, for a run, the end of its first evaluation at or above it; nothing is interpolated "
    "between evaluations. A cost is the mean over seeds of what each had spent by then; a ratio is that mean over "
    f"{BASELINE_NAME}'s, its interval resamples the seeds of both, and neither is given unless every seed reached, "
    "because leaving out those that did not would flatter. The mean curve is the mean accuracy over seeds: where it "
    "reaches, its cost is the mean over seeds at that evaluation; it has no interval. In a ratio less than 1 is better."
)

INTERVAL_NOTE = (
    "Intervals are 95 % stratified bootstrap intervals over seeds (percentile method, as in rliable), of the mean. "
    "Curves against tokens and time put the mean accuracy of an evaluation at the mean cost of it. Thin lines are "
    "single runs (left out when many); a collapsed one is dotted, with a cross where it fell, and counts in the mean."
)

COLLAPSE_NOTE = (
    "Collapsed: held-out greedy accuracy below half of the run's best so far in two consecutive evaluations, and not "
    "recovered by the end of the run."
)


def about(comparison: Comparison) -> str:
    """One line: how many runs of what, and what accuracy is."""
    runs, methods = comparison.runs, comparison.methods
    last = max(max(run.run.steps) for run in runs)
    keys = comparison.keys
    of = keys[0] if len(keys) == 1 else f"the mean of {', '.join(keys)}"
    words = [
        f"{len(runs)} run{'s' if len(runs) > 1 else ''}",
        f"{len(methods)} method{'s' if len(methods) > 1 else ''}",
    ]
    return f"{words[0]} of {words[1]}, up to {last:,} steps. Accuracy is {of}."


def title(comparison: Comparison) -> str:
    """The methods' names, without their betas."""
    names = list(dict.fromkeys(method.label.split(", beta")[0] for method in comparison.methods))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}, compared"


def render(comparison: Comparison, pictures: dict[str, list[Picture]], evaluated: Sequence[Evaluation] = ()) -> str:
    """The whole page."""
    keys = [swatch(index) for index in range(len(comparison.methods))]
    labels = [method.label for method in comparison.methods]
    known = dict(zip(labels, keys, strict=True))
    legend = _legend(labels, keys)
    parts = [
        f"<header><h1>{escape(title(comparison))}</h1><p class=about>{escape(about(comparison))}</p></header>",
        "<main>",
        _unequal(notes.inequalities(comparison)),
        _table(tables.summary(comparison), known),
        '<div class="figures top">',
        _list(notes.findings(comparison)),
        "".join(map(_figure, pictures["difference"])),
        "</div>",
    ]
    parts += _section("Held-out accuracy", legend, _figures(pictures["accuracy"]), _note(INTERVAL_NOTE))
    if evaluated:
        parts += _section("Evaluations", _table(side_by_side(evaluated), {}))
    if comparison.targets:
        reach = [
            f"<h3>{escape(target)}'s best mean accuracy: {accuracy:.3f}</h3>"
            + _table(tables.reach_table(comparison, target), known)
            for target, accuracy in comparison.targets.items()
        ]
        parts += _section("What it takes to reach an accuracy", *reach, _note(REACH_NOTE))
    parts += _section(
        "Health of training",
        legend,
        _figures(pictures["health"], "figures three"),
        "<h3>At the end: means over the last tenth of the steps</h3>",
        _table(tables.health(comparison), known),
        _note(COLLAPSE_NOTE),
    )
    memory = tables.memory(comparison)
    parts += _section(
        "Time and memory",
        _figures(pictures["cost"]),
        "<h3>Seconds of a step</h3>",
        _table(tables.phases(comparison), known),
        "<h3>Memory by component</h3>" + _table(memory, known) if memory else "",
    )
    parts += _section("Runs", _table(tables.runs_table(comparison), known))
    parts += _section("What this report cannot show", _list(notes.limits(comparison)))
    parts += _section("Provenance", *_provenance(comparison))
    parts.append("</main>")
    body = "\n".join(part for part in parts if part)
    script = (HERE / "page.js").read_text()
    return html_page(title(comparison), body, style=(HERE / "page.css").read_text(), script=script)


def _section(heading: str, *parts: str) -> list[str]:
    return ["<section>", f"<h2>{escape(heading)}</h2>", *parts, "</section>"]


def _note(text: str) -> str:
    return f"<p class=note>{escape(text)}</p>"


def _list(sentences: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _unequal(sentences: list[str]) -> str:
    if not sentences:
        return ""
    return f"<div class=unequal role=note><p><strong>Before you compare</strong></p>{_list(sentences)}</div>"


def _legend(labels: list[str], keys: list[str]) -> str:
    buttons = (
        f'<button type="button" data-series="{index}" aria-pressed="true">'
        f"<span class=key>{key}</span>{escape(label)}</button>"
        for index, (label, key) in enumerate(zip(labels, keys, strict=True))
    )
    return f'<div class="legend methods">{"".join(buttons)}</div>'


def _figures(pictures: list[Picture], kind: str = "figures") -> str:
    if not pictures:
        return "<p class=note>Nothing was logged for this section.</p>"
    return f'<div class="{kind}">' + "".join(map(_figure, pictures)) + "</div>"


def _figure(picture: Picture) -> str:
    parts = ""
    if picture.of_parts:
        entries = (
            f"<span class=entry><span class=key>{swatch(index, of_parts=True)}</span>{escape(name)}</span>"
            for name, index in picture.legend
        )
        parts = f"<div class=legend>{''.join(entries)}</div>"
    return f"<figure><figcaption>{escape(picture.title)}</figcaption>{parts}{svg(picture)}</figure>"


def _table(table: Table, keys: dict[str, str], words: bool = False) -> str:
    """A table in a container of its own, so that a wide one scrolls alone."""
    head = "".join(f"<th scope=col>{escape(column)}</th>" for column in table.columns)
    rows = []
    for number, row in enumerate(table.rows):
        label = table.labels[number] if number < len(table.labels) else ""
        key = f"<span class=key>{keys[label]}</span>" if label in keys else ""
        cells = []
        for place, cell in enumerate(row):
            # Each piece stays on one line.
            pieces = " ".join(f"<span>{escape(piece)}</span>" for piece in cell.sub.replace(", ", ",\0").split("\0"))
            sub = f"<small>{pieces}</small>" if cell.sub else ""
            kind = " class=bad" if cell.bad else ""
            cells.append(f"<td{kind}>{key if place == 0 else ''}{escape(cell.text)}{sub}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    name = "wide words" if words else "wide"
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    # Focusable, so that the keyboard can scroll it.
    return f'<div class="{name}" tabindex=0>{body}</div>' + (_note(table.note) if table.note else "")


def _provenance(comparison: Comparison) -> list[str]:
    parts = [_table(provenance.facts_table(comparison), {}, words=True)]
    different = provenance.differing_overrides(comparison)
    if different:
        parts.append(
            "<details><summary>Exact overrides in which runs differ</summary>"
            + _table(different, {}, words=True)
            + "</details>"
        )
    common = provenance.common_overrides(comparison)
    if common:
        text = escape("\n".join(common))
        parts.append(
            f"<details><summary>Exact overrides of every run ({len(common)})</summary><pre>{text}</pre></details>"
        )
    if not common and not different:
        parts.append(_note("Exact overrides: not recorded."))
    runs = _table(provenance.times_table(comparison), {}, words=True)
    parts.append(f"<details><summary>When each run ran, and its metrics</summary>{runs}</details>")
    return parts
