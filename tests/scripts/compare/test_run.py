"""The matrix: what is run, what is skipped, what is kept, and what a failure or an interruption leaves.

The launcher here is a fake one: it logs steps without training, which is all that the matrix sees of a run.
"""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from scripts.compare import run
from scripts.compare.matrix import Cell, UsageError, parse_cells, parse_method
from tests.support import ROOT

FAKE_LAUNCHER = """
set -euo pipefail
echo "$METHOD $SEED ${BETA:-none} $*" >> "$CALLS"
mkdir -p "$OUT"
[[ ${FAIL:-} != "$METHOD" ]] || { echo "no such method" >&2; exit 3; }
echo "{\\"method\\": \\"$METHOD\\", \\"seed\\": $SEED, \\"steps\\": 2, \\"overrides\\": [$(printf '"%s",' "$@" | sed 's/,$//; s/^""$//')]}" > "$OUT/run.json"
touch "$OUT/metrics.jsonl"
first=$(( $(wc -l < "$OUT/metrics.jsonl") + 1 ))
for step in $(seq "$first" 2); do
  echo "{\\"step\\": $step, \\"data\\": {\\"x\\": $SEED}}" >> "$OUT/metrics.jsonl"
  sleep "${PAUSE:-0}"
done
echo "[{\\"started\\": \\"2026-01-01T00:00:00+00:00\\", \\"overrides\\": [\\"a=$PWD/x\\"]}]" > "$OUT/metrics.provenance.json"
"""  # noqa: E501


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake launcher that notes its calls."""
    path = tmp_path / "fake_launcher.sh"
    path.write_text(FAKE_LAUNCHER)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setattr(run, "POLL_S", 0.02)
    return path


def arguments(launcher: Path, *more: str) -> list[str]:
    folder = launcher.parent
    return [*more[:1], "--launcher", str(launcher), "--out", f"{folder}/out", "--keep", f"{folder}/kept", *more[1:]]


def calls(launcher: Path) -> list[str]:
    path = launcher.parent / "calls"
    return [line.strip() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    "text", ["", "spro:ROOT=a/b", ":BETA=1", "spro:", "spro:BETA", "spro:BETA=", "spro:=1", "spro:SEED=1"]
)
def test_what_is_no_method_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_method(text)


def test_cells_come_seed_by_seed() -> None:
    cells = parse_cells(["grpo", "spro:BETA=0.03,LR=1e-5"], "0,2")
    assert [cell.name for cell in cells] == [
        "grpo-seed0",
        "spro-beta0.03-lr1e-5-seed0",
        "grpo-seed2",
        "spro-beta0.03-lr1e-5-seed2",
    ]
    for methods, seeds in ((["grpo", "grpo"], "0"), (["grpo"], "0,0"), (["grpo"], "0;1")):
        with pytest.raises(UsageError):
            parse_cells(methods, seeds)


def test_a_matrix_is_run_kept_and_then_skipped(
    launcher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Of an outer run: no cell's.
    monkeypatch.setenv("BETA", "7")
    monkeypatch.setenv("OUT", "/elsewhere")
    command = arguments(launcher, "grpo", "spro:BETA=0.03", "--seeds", "0,1", "--", "trainer.x=1")
    assert run.main(command) == 0
    assert calls(launcher) == [
        "grpo 0 none trainer.x=1",
        "spro 0 0.03 trainer.x=1",
        "grpo 1 none trainer.x=1",
        "spro 1 0.03 trainer.x=1",
    ]
    kept = launcher.parent / "kept"
    rows = gzip.decompress((kept / "spro-beta0.03-seed1.jsonl.gz").read_bytes()).splitlines()
    assert [json.loads(row) for row in rows] == [{"step": step, "data": {"x": 1}} for step in (1, 2)]
    settings = json.loads((kept / "spro-beta0.03-seed1.json").read_text())
    assert (settings["method"], settings["seed"], settings["steps"]) == ("spro", 1, 2)
    # No folder of this machine.
    assert settings["provenance"]["overrides"] == ["a=x"]
    assert settings["provenance"]["runs_at_once"] == 1
    assert "all there" in capsys.readouterr().out

    assert run.main(command) == 0
    assert len(calls(launcher)) == 4
    assert "grpo-seed0: kept already" in capsys.readouterr().out
    # A run that is done but was not kept is not trained again.
    (kept / "grpo-seed0.jsonl.gz").unlink()
    assert run.main(command) == 0
    assert len(calls(launcher)) == 4
    assert (kept / "grpo-seed0.jsonl.gz").exists()


def test_kept_bytes_are_the_same_each_time(launcher: Path) -> None:
    command = arguments(launcher, "grpo", "--seeds", "0")
    assert run.main(command) == 0
    path = launcher.parent / "kept" / "grpo-seed0.jsonl.gz"
    before = path.read_bytes()
    path.unlink()
    assert run.main(command) == 0
    assert path.read_bytes() == before


def test_a_kept_run_of_other_settings_is_no_substitute(launcher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(arguments(launcher, "grpo", "--seeds", "0")) == 0
    assert run.main(arguments(launcher, "grpo", "--seeds", "0", "--", "trainer.x=1")) == 2
    assert "grpo-seed0.json was made with {'overrides': []}" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [True, False])
def test_nor_is_one_of_another_environment(
    kept: bool, launcher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(launcher, "grpo", "--seeds", "0")
    assert run.main(command) == 0
    monkeypatch.setenv("STEPS", "2.0")
    assert run.main(command) == 0
    if not kept:
        (launcher.parent / "kept" / "grpo-seed0.jsonl.gz").unlink()
    monkeypatch.setenv("STEPS", "160")
    assert run.main(command) == 2
    told = capsys.readouterr().err
    assert "was made with {'steps': 2}, this matrix wants {'steps': '160'}" in told
    assert len(calls(launcher)) == 1


def test_settings_that_are_missing_are_named(launcher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(arguments(launcher, "grpo", "--seeds", "0")) == 0
    (launcher.parent / "kept" / "grpo-seed0.json").unlink()
    assert run.main(arguments(launcher, "grpo", "--seeds", "0")) == 2
    assert "grpo-seed0.json is missing" in capsys.readouterr().err


def test_what_a_cell_was_told_and_who_ran_beside_it_is_kept(launcher: Path) -> None:
    command = arguments(launcher, "grpo:LR=2e-4,BETA=1", "--seeds", "0", "--jobs", "2")
    assert run.main(command) == 0
    path = launcher.parent / "kept" / "grpo-lr2e-4-beta1-seed0.json"
    settings = json.loads(path.read_text())
    assert settings["variables"] == {"LR": "2e-4"}
    assert settings["provenance"]["runs_at_once"] == 2
    # Started by hand, nobody knows.
    path.with_name("grpo-lr2e-4-beta1-seed0.jsonl.gz").unlink()
    (launcher.parent / "out" / "grpo-lr2e-4-beta1-seed0" / "runs_at_once").unlink()
    assert run.main(command) == 0
    assert json.loads(path.read_text())["provenance"]["runs_at_once"] is None


def test_the_list_runs_nothing(launcher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(arguments(launcher, "grpo", "--seeds", "0,1", "--list")) == 0
    kept = launcher.parent / "kept"
    assert capsys.readouterr().out.split() == [str(kept / f"grpo-seed{seed}.jsonl.gz") for seed in (0, 1)]
    assert calls(launcher) == []


def test_a_scheduler_that_is_not_there_is_named(launcher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(arguments(launcher, "grpo", "--submit", "no_such_sbatch x")) == 2
    assert "there is no command 'no_such_sbatch'" in capsys.readouterr().err


def test_a_failed_run_does_not_stop_the_others_and_is_tried_again(
    launcher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = arguments(launcher, "grpo", "prime", "--seeds", "0,1", "--jobs", "2")
    monkeypatch.setenv("FAIL", "prime")
    assert run.main(command) == 1
    told = capsys.readouterr()
    assert "prime-seed1: ended with status 3" in told.out
    assert "no such method" in told.out
    assert "2 failed" in told.err
    assert sorted(path.name for path in (launcher.parent / "kept").glob("*.gz")) == [
        "grpo-seed0.jsonl.gz",
        "grpo-seed1.jsonl.gz",
    ]
    monkeypatch.delenv("FAIL")
    assert run.main(command) == 0
    assert len(list((launcher.parent / "kept").glob("*.gz"))) == 4


def test_ctrl_c_ends_the_runs_and_the_same_command_goes_on(launcher: Path) -> None:
    command = [sys.executable, "-m", "scripts.compare", "run", *arguments(launcher, "grpo", "--seeds", "0")]
    environment = {**os.environ, "PAUSE": "600", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts what runs in its background, such as these tests, with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    metrics = launcher.parent / "out" / "grpo-seed0" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130
    assert b"the same command goes on" in told
    assert [x for x in psutil.process_iter(["cmdline"]) if str(launcher) in (x.info["cmdline"] or ())] == []
    assert run.main(arguments(launcher, "grpo", "--seeds", "0")) == 0
    # The second start logged only the step that was missing.
    assert len(metrics.read_text().splitlines()) == 2


def test_a_scheduler_gets_what_is_missing_once(launcher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_sbatch = launcher.parent / "fake_sbatch.sh"
    fake_sbatch.write_text('echo "Submitted batch job 7"; echo "$METHOD $SEED: $*" >> "$CALLS"\n')
    command = arguments(launcher, "grpo", "spro", "--seeds", "0", "--submit", f"bash {fake_sbatch}")
    assert run.main(command) == 0
    assert calls(launcher) == [f"grpo 0: bash {launcher}", f"spro 0: bash {launcher}"]
    assert run.main(command) == 0
    assert len(calls(launcher)) == 2
    assert "grpo-seed0: Submitted batch job 7, step 0/?" in capsys.readouterr().out
    # The job has run meanwhile.
    environment = {**os.environ, "METHOD": "grpo", "SEED": "0", "OUT": str(launcher.parent / "out" / "grpo-seed0")}
    subprocess.run(["bash", str(launcher)], env=environment, check=True)
    assert run.main(command) == 0
    assert (launcher.parent / "kept" / "grpo-seed0.jsonl.gz").exists()


def test_the_shipped_launcher_is_one(tmp_path: Path) -> None:
    """What the matrix sets reaches run.sh, and what it may not be told ends before anything starts."""
    matrix, _ = run.parse(["spro:BETA=0.03", "--seeds", "1", "--out", str(tmp_path)])
    (cell,) = matrix.cells
    assert cell == Cell("spro", 1, (("BETA", "0.03"),))
    environment = matrix.environment(Cell("no_such_method", 1))
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(matrix.command(), env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "METHOD=no_such_method: must be one of" in done.stderr
    assert "grpo_neg_kl" in done.stderr
    environment = matrix.environment(Cell("grpo", 1, (("BETA", "0.03"),)))
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(matrix.command(), env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "BETA=0.03: METHOD=grpo has no beta" in done.stderr
