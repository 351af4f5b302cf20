"""The dumps of a run in numbers: by training step, position and step of the response, and by token; and a figure.

    python -m scripts.inspect stats RUN --out DIR

writes stats.md, a CSV a table, and stats.png. RUN is a run's folder, its folder of dumps, or one dump.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe.spro.dump import Dump, figure
from recipe.spro.dump.file import DumpError
from recipe.spro.dump.stats import Bin, Pushed, StepStats, Summary, Tokens, bins, most_pushed
from scripts.files import write
from scripts.inspect import page
from scripts.inspect.sources import beside, load, parser_of
from scripts.tables import NONE, Cell, Table, amount

NOTE = """M is the process term as it enters the advantage (MSA times its sign), O the outcome advantage. *Alive*: how
many responses of the group have the token's step. *Agreement*: share of tokens whose M has the sign of O, where neither
is 0; 0.5 is a coin's. *Share of abs. A*: sum of |M| over the sum of |M| + |O|. *Correlation*: of a response's CPR at
its last token with its reward, both less their group's mean, with a 95 % bootstrap interval over groups (none with
fewer than four that vary). A token that raises one response and lowers another counts with both signs."""

OF_SUMMARY = ("tokens", "rms of M", "rms of O", "alive", "agreement", "share of abs. A")


def _cells(summary: Summary) -> list[Cell]:
    return [
        Cell(amount(summary.tokens, 0)),
        Cell(amount(summary.msa_rms)),
        Cell(amount(summary.outcome_rms)),
        Cell(f"{summary.alive:.1f}", f"{summary.alive_frac:.0%}"),
        Cell(_or_none(summary.sign_agreement)),
        Cell(_or_none(summary.abs_share)),
    ]


def _or_none(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def by_training_step(history: Sequence[StepStats]) -> Table:
    """A row a dump."""
    columns = ["training step", "responses", *OF_SUMMARY]
    columns += ["rms of M, first quarter", "last quarter", "correlation"]
    rows = []
    for one in history:
        found = one.correlation
        interval = "" if found is None or found.low is None else f"{found.low:.2f} to {found.high:.2f}"
        row = [Cell(str(one.step)), Cell(str(one.responses), f"{one.groups} prompts"), *_cells(one.all)]
        row += [Cell(amount(one.early.msa_rms)), Cell(amount(one.late.msa_rms))]
        rows.append([*row, Cell(NONE) if found is None else Cell(f"{found.value:.2f}", interval)])
    return Table(columns, rows)


def by_bin(found: Sequence[Bin], name: str) -> Table:
    """A row a bin of positions or steps."""
    columns = [name, *OF_SUMMARY]
    names = [str(one.start) if one.stop == one.start + 1 else f"{one.start} to {one.stop - 1}" for one in found]
    return Table(columns, [[Cell(label), *_cells(one.summary)] for label, one in zip(names, found, strict=True)])


def by_token(found: Sequence[Pushed]) -> Table:
    """A row a token of the vocabulary."""
    columns = ["token", "places", "sum of M", "mean of M", "mean log-ratio"]
    return Table(
        columns,
        [
            [
                Cell(f"`{_shown(one.piece)}`"),
                Cell(amount(one.count, 0)),
                Cell(amount(one.msa_sum)),
                Cell(amount(one.msa)),
                Cell(amount(one.log_ratio)),
            ]
            for one in found
        ],
    )


def _shown(piece: bytes) -> str:
    """The text with its white space seen; bytes where it is no text. Back quotes would end the Markdown."""
    try:
        return json.dumps(piece.decode(), ensure_ascii=False).replace("`", "\\u0060")
    except UnicodeDecodeError:
        return str(piece)


def tables(dumps: Sequence[Dump]) -> dict[str, tuple[str, Table]]:
    """Every table, by the name of its file: its heading, and the table."""
    history = [StepStats.of(dump) for dump in dumps]
    everything = Tokens.of(dumps)
    raised, lowered = most_pushed(everything)
    found = {
        "steps": ("By training step", by_training_step(history)),
        "positions": ("By position, all dumps", by_bin(bins(everything, _position), "position")),
        "last_positions": (
            f"By position, training step {dumps[-1].step}",
            by_bin(bins(Tokens.of(dumps[-1:]), _position), "position"),
        ),
    }
    if any(response.step_ids is not None for dump in dumps for response in dump.responses):
        name = dumps[-1].meta["settings"]["step"]
        found["units"] = (f"By {name} of the response, all dumps", by_bin(bins(everything, _unit), name))
    found["raised"] = ("Tokens most raised", by_token(raised))
    found["lowered"] = ("Tokens most lowered", by_token(lowered))
    return found


def _position(tokens: Tokens) -> Any:
    return tokens.position


def _unit(tokens: Tokens) -> Any:
    return tokens.unit


def markdown(dumps: Sequence[Dump], found: dict[str, tuple[str, Table]]) -> str:
    """The report, with the figure linked."""
    parts = ["# What the process term rewards, in numbers", page.about(dumps), *page.notes(dumps, 0)]
    parts += ["![Size of the process term, its agreement with the outcome](stats.png)", NOTE]
    for heading, table in found.values():
        parts += [f"## {heading}", table.markdown()]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def csv_of(table: Table) -> str:
    """The cells, the smaller line in a column of its own where there is one."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    subs = [any(row[place].sub for row in table.rows) for place in range(len(table.columns))]
    extra = [f"{name}, more" for name, sub in zip(table.columns, subs, strict=True) if sub]
    writer.writerow([*table.columns, *extra])
    for row in table.rows:
        texts = [cell.text.strip("`").replace(NONE, "") for cell in row]
        writer.writerow([*texts, *(cell.sub for cell, sub in zip(row, subs, strict=True) if sub)])
    return out.getvalue()


def report(dumps: Sequence[Dump], out: Path) -> None:
    """Write stats.md, a CSV a table, and stats.png."""
    found = tables(dumps)
    history = [StepStats.of(dump) for dump in dumps]
    drawn = figure.draw(history, bins(Tokens.of(dumps[-1:]), _position))
    write(out / "stats.png", figure.png(drawn))
    for name, (_, table) in found.items():
        write(out / f"{name}.csv", csv_of(table).encode())
    rows = [{"step": one.step, **one.scalars()} for one in history]
    write(out / "stats.json", (json.dumps({"meta": dumps[-1].meta, "steps": rows}, indent=1) + "\n").encode())
    write(out / "stats.md", markdown(dumps, found).encode())


def main(arguments: list[str]) -> int:
    """The command; 2 where there is no dump, with the reason and the fix on stderr."""
    parsed = parser_of("stats", __doc__, out="folder (default: inspect in RUN, or beside the dump)").parse_args(
        arguments
    )
    out = parsed.out or beside(parsed.run, "inspect")
    try:
        dumps = load(parsed.run)
        report(dumps, out)
        print(by_training_step([StepStats.of(dump) for dump in dumps]).markdown())
    except (DumpError, OSError) as error:
        print(f"inspect stats: {error}", file=sys.stderr)
        return 2
    print(out / "stats.md")
    return 0
