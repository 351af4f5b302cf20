"""Every format gives the same run, and what cannot be read is refused with file and fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.compare import readers, sources
from scripts.runs import BadRun
from tests.scripts.compare.synthetic import ACCURACY, as_csv, as_scan, as_tensorboard, keep, provenance, rows, settings

LOGGED = rows([0.2, 0.5, 0.625])


def test_every_format_gives_the_same_steps(tmp_path: Path) -> None:
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps(row) + "\n" for row in LOGGED))
    wanted = readers.read(keep(tmp_path, "kept", LOGGED, None))
    assert wanted[20][ACCURACY] == 0.625
    assert list(wanted) == list(range(21))
    assert readers.read(plain) == wanted
    assert readers.read(as_csv(tmp_path / "history.csv", LOGGED)) == wanted
    assert readers.read(as_scan(tmp_path / "scan.jsonl", LOGGED)) == wanted
    events = readers.read(as_tensorboard(tmp_path / "events", LOGGED))
    assert events.keys() == wanted.keys()
    for step, metrics in wanted.items():
        assert events[step] == pytest.approx(metrics, rel=1e-6)


def test_a_charts_export_is_read_under_the_metrics_name(tmp_path: Path) -> None:
    path = tmp_path / "chart.csv"
    path.write_text(f'"Step","one - {ACCURACY}","one - {ACCURACY}__MIN","one - {ACCURACY}__MAX"\n0,0.2,0.2,0.2\n')
    assert readers.read(path) == {0: {ACCURACY: 0.2}}
    path.write_text(f'"Step","one - {ACCURACY}","two - {ACCURACY}"\n0,0.2,0.3\n')
    with pytest.raises(BadRun, match=r"chart\.csv holds curves of 2 runs \(one, two\): export each"):
        readers.read(path)


def test_a_torn_last_line_is_left_out_and_any_other_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(LOGGED[0]) + '\n{"step": 1, "da')
    assert list(readers.read(path)) == [0]
    path.write_text("nonsense\n" + json.dumps(LOGGED[0]) + "\n")
    with pytest.raises(BadRun, match=r"metrics\.jsonl, line 1: not a row of metrics"):
        readers.read(path)


def test_what_is_no_finite_number_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "data": {"a": NaN, "b": true, "c": "text", "d": 2, "e": null}}\n')
    assert readers.read(path) == {1: {"d": 2.0}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.txt", "", "unknown format"),
        ("run.csv", "a,b\n1,2\n", "no column of steps"),
        ("run.csv", "_step,a\nx,2\n", r"line 2: _step is 'x'"),
        ("run.jsonl", "", "holds no number"),
        ("run.jsonl.gz", "not gzip", "cannot be read"),
        ("run.jsonl", '{"loss": 1}\n', "line 1: not a row"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(BadRun, match=message) as error:
        readers.read(path)
    assert str(path) in str(error.value)


def test_a_folder_stands_for_its_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        keep(tmp_path / "kept", f"grpo-seed{seed}", LOGGED, settings("grpo", seed))
    out = tmp_path / "outputs" / "spro-seed0"
    out.mkdir(parents=True)
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LOGGED))
    (out / "run.json").write_text(json.dumps(settings("spro", 0, 0.03)))
    (out / "metrics.provenance.json").write_text(json.dumps([provenance()]))
    runs = sources.load([str(tmp_path / "kept"), str(tmp_path / "outputs")])
    assert [(run.name, run.label, run.seed) for run in runs] == [
        ("grpo-seed0", "GRPO", 0),
        ("grpo-seed1", "GRPO", 1),
        ("spro-seed0", "SPRO, beta 0.03", 0),
    ]
    assert runs[2].provenance == provenance()
    assert runs[0].provenance is None


def test_a_foreign_run_is_named_on_the_command_line(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "history.csv", LOGGED)
    (run,) = sources.load([f"rloo:7={path}"])
    assert (run.method, run.label, run.seed, run.settings) == ("rloo", "RLOO", 7, {})
    with pytest.raises(BadRun, match=r"history\.csv: no method and seed known .*METHOD:SEED=PATH.*grpo:0="):
        sources.load([str(path)])


def test_the_logged_beta_tells_foreign_runs_apart(tmp_path: Path) -> None:
    one = as_csv(tmp_path / "one.csv", rows([0.2, 0.5], {"spro/beta": 0.01}))
    two = as_csv(tmp_path / "two.csv", rows([0.2, 0.5], {"spro/beta": 0.1}))
    assert [run.label for run in sources.load([f"spro:0={two}", f"spro:0={one}"])] == [
        "SPRO, beta 0.01",
        "SPRO, beta 0.1",
    ]


def test_the_same_run_twice_is_refused_naming_both(tmp_path: Path) -> None:
    one = keep(tmp_path, "one", LOGGED, settings("grpo", 0))
    two = keep(tmp_path, "two", LOGGED, settings("grpo", 0))
    with pytest.raises(BadRun, match=f"{one} and {two} are both GRPO, seed 0"):
        sources.load([str(tmp_path)])


def test_bad_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = keep(tmp_path, "one", LOGGED, None)
    (tmp_path / "one.json").write_text("{")
    with pytest.raises(BadRun, match=r"one\.json is not JSON"):
        sources.load([str(path)])
    (tmp_path / "one.json").write_text('{"method": "grpo", "seed": "first"}')
    with pytest.raises(BadRun, match=r"one\.json: seed is 'first'"):
        sources.load([str(path)])


def test_an_output_folders_last_start_is_its_provenance(tmp_path: Path) -> None:
    folder = tmp_path / "spro-seed0"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 0, "data": {ACCURACY: 0.5}}) + "\n")
    (folder / "run.json").write_text(json.dumps({"method": "spro", "seed": 0}))
    assert sources.load_one(folder).provenance is None
    (folder / "metrics.provenance.json").write_text(json.dumps([{"commit": "a"}, {"commit": "b"}]))
    assert sources.load_one(folder).provenance == {"commit": "b"}
    (folder / "metrics.provenance.json").write_text("[{")
    with pytest.raises(BadRun, match=r"metrics\.provenance\.json is no record"):
        sources.load_one(folder)
