"""The command: same table from every format, same bytes every time, one message and no traceback for bad input."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from scripts.compare import __main__, drawing, report, sources
from scripts.compare.comparison import Comparison
from scripts.compare.figures import SMALL, WIDE
from tests.scripts.compare.synthetic import as_csv, as_scan, as_tensorboard, keep, rows, settings


def test_everything_is_written(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == [
        "figures",
        "report.csv",
        "report.html",
        "report.md",
        "runs.csv",
    ]
    figures = sorted(path.name for path in (written / "figures").iterdir())
    assert figures == sorted(
        f"{name}.png"
        for name in (
            *("accuracy-steps", "accuracy-tokens", "accuracy-wall-clock", "accuracy-device-hours", "difference"),
            *("entropy", "length", "truncation", "kl", "share", "phases", "memory"),
        )
    )
    text = (written / "report.md").read_text()
    linked = re.findall(r"\]\(figures/([^)]+)\)", text)
    assert sorted(linked) == figures


def test_the_page_is_self_contained(written: Path) -> None:
    page = (written / "report.html").read_text()
    # Names of XML namespaces are not fetched.
    addresses = set(re.findall(r"https?://[^\"'\s)]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(script|img|iframe)[^>]+src=|@import|url\((?!#)", page)
    # Every colour of a figure follows the theme.
    assert not re.search(r"<svg.*?(fill|stroke): #[0-9a-f]{6}", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) or {i for i in ids if ids.count(i) > 1} <= _swatch_ids(ids)


def _swatch_ids(ids: list[str]) -> set[str]:
    """A method's sample of line and marker stands in several legends; its copies are the same."""
    return {name for name in ids if name.startswith("swatch-")}


def test_the_csvs_hold_means_and_intervals(written: Path) -> None:
    with (written / "report.csv").open() as file:
        by_method = {row["method"]: row for row in csv.DictReader(file)}
    spro = by_method["SPRO, beta 0.01"]
    assert float(spro["final_accuracy"]) == pytest.approx(0.65)
    assert (float(spro["final_accuracy_low"]), float(spro["final_accuracy_high"])) == pytest.approx((0.6, 0.7))
    assert float(spro["to GRPO's best: steps ratio"]) == pytest.approx(2 / 3)
    assert by_method["PRIME, beta 0.01"]["collapsed"] == "1"
    assert by_method["PRIME, beta 0.01"]["memory_reward_model_optimizer_gib"] == "4"
    with (written / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert [row["collapsed_at_step"] for row in runs] == ["", "", "", "20", "", ""]
    assert {row["generated_tokens"] for row in runs} == {"1200"}


def test_the_same_runs_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    assert report.main([str(written.parent / "runs"), "--out", str(tmp_path)]) == 0
    for path in written.rglob("*"):
        if path.is_file():
            assert (tmp_path / path.relative_to(written)).read_bytes() == path.read_bytes(), path.name


def test_every_format_gives_the_same_tables(tmp_path: Path) -> None:
    curves = {"grpo": [0.2, 0.4, 0.6], "rloo": [0.2, 0.6, 0.7]}
    texts = {}
    for form in ("kept", "csv", "scan", "tensorboard"):
        arguments = []
        for method, curve in curves.items():
            folder = tmp_path / form
            folder.mkdir(exist_ok=True)
            logged = rows(curve)
            if form == "kept":
                path = keep(folder, f"{method}-0", logged, None)
            elif form == "csv":
                path = as_csv(folder / f"{method}-0.csv", logged)
            elif form == "scan":
                path = as_scan(folder / f"{method}-0.jsonl", logged)
            else:
                path = as_tensorboard(folder / f"{method}-0", logged)
            arguments.append(f"{method}:0={path}")
        comparison = Comparison.of(sources.load(arguments), devices=2)
        # Without figures, which would be drawn four times.
        texts[form] = report.markdown(comparison, {key: [] for key in ("difference", "accuracy", "health", "cost")})
    assert "| RLOO (1 run) | 0.700 (1 seed, no interval) | +0.100 (1 seed, no interval) |" in texts["kept"]
    assert len(set(texts.values())) == 1


def test_a_report_over_an_older_one_leaves_no_old_figure(tmp_path: Path) -> None:
    (tmp_path / "out" / "figures").mkdir(parents=True)
    (tmp_path / "out" / "figures" / "kl.png").write_bytes(b"old")
    path = keep(tmp_path, "one", rows([0.2, 0.5]), settings("grpo", 0))
    assert report.main([str(path), "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "figures" / "kl.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "{0}/none.jsonl.gz"], "none.jsonl.gz does not exist"),
        (["report", "{0}"], "holds no run"),
        (["report", "{0}/one.csv"], "grpo:0="),
        (["report", "grpo:0={0}/one.csv"], "no held-out accuracy"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    folder = tmp_path
    if not message.startswith("holds"):
        (folder / "one.csv").write_text("_step,loss\n1,2\n")
    assert __main__.main([argument.format(folder) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("compare report: ")
    assert message in error
    assert error.count("\n") == 1


def test_wrong_usage_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["report"], ["report", "x", "--devices", "0"]):
        with pytest.raises(SystemExit) as end:
            __main__.main(arguments)
        assert end.value.code == 2
    assert __main__.main([]) == 2
    assert __main__.main(["nonsense"]) == 2
    assert __main__.main(["--help"]) == 0
    assert "python -m scripts.compare report" in capsys.readouterr().out


def test_no_legend_of_a_picture_is_cut() -> None:
    labels = ("SPRO shuffled, beta 0.01", "SPRO bounded, beta 0.1", "GRPO neg. KL, beta 0.01", "GRPO", "PRIME")
    for size in (WIDE, SMALL):
        legend = tuple((label, index) for index, label in enumerate(labels))
        picture = drawing.Picture("x", "X", "x", lambda canvas: canvas.axis.plot([0, 1], [0, 1]), legend, size=size)
        canvas = drawing._drawn(picture, drawing.LIGHT)
        extent = drawing.add_legend(canvas, picture).get_window_extent()
        assert 0 < extent.width <= canvas.figure.bbox.width
