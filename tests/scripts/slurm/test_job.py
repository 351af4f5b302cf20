"""What the batch script makes of a launcher's end, on a real Slurm; nothing is trained and no Ray is started."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.slurm import LocalSlurm, local_slurm, missing_programs
from tests.e2e.stack import MARKER, processes_with
from tests.support import ROOT

pytestmark = pytest.mark.skipif(
    bool(missing_programs()), reason=f"no {', '.join(missing_programs())}: apt-get install slurm-wlm munge"
)


@pytest.fixture(scope="module")
def slurm() -> Iterator[LocalSlurm]:
    """One cluster for this file."""
    with local_slurm() as cluster:
        yield cluster


def submit(slurm: LocalSlurm, folder: Path, launcher: str, **environment: str) -> str:
    """Submit a launcher of this text on one node; returns the job's number."""
    (folder / "launcher.sh").write_text(f"set -eu\n{launcher}\n")
    return slurm.ask(
        *("sbatch", "--parsable", "--nodes=1", "--time=60", f"--chdir={ROOT}", f"--output={folder}/slurm.out"),
        *(f"{ROOT}/scripts/slurm/train.sbatch", f"{folder}/launcher.sh"),
        **{"LOGS": str(folder / "logs"), **environment},
    )


def wait(slurm: LocalSlurm, job: str, ready: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    deadline = time.monotonic() + 300
    while not ready(state := slurm.job(job)):
        assert time.monotonic() < deadline, state
        time.sleep(0.2)
    return state


def over(state: dict[str, str]) -> bool:
    return state["JobState"] in ("COMPLETED", "FAILED", "CANCELLED")


def left_by(marker: str) -> list[str]:
    """Command lines of the processes of a job that is over; they may take a moment."""
    deadline = time.monotonic() + 60
    while (left := processes_with(marker)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [command for _, command in left]


# What `verl_ext.stop_request` and `scripts.slurm.head` do, in a line.
UNTIL_ASKED = (
    'touch "$FOLDER/started-${SLURM_RESTART_COUNT:-0}"; until [[ -f $VERL_EXT_STOP_FILE ]]; do sleep 0.2; done'
)


def test_a_saved_run_is_requeued_and_the_next_attempt_ends_the_job(slurm: LocalSlurm, tmp_path: Path) -> None:
    launcher = f"if (( ${{SLURM_RESTART_COUNT:-0}} == 0 )); then\n{UNTIL_ASKED}\nexit 75; fi"
    job = submit(slurm, tmp_path, launcher, FOLDER=str(tmp_path))
    wait(slurm, job, lambda _: (tmp_path / "started-0").exists())
    slurm.ask("scancel", "--signal=USR1", "--batch", job)
    state = wait(slurm, job, over)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1")
    assert (tmp_path / "logs" / "latest").resolve() == (tmp_path / "logs" / f"{job}.1").resolve()
    assert "asked to save" in (tmp_path / "logs" / f"{job}.0" / "job.log").read_text()


def test_a_run_that_does_not_save_in_time_is_requeued_all_the_same(slurm: LocalSlurm, tmp_path: Path) -> None:
    launcher = 'if (( ${SLURM_RESTART_COUNT:-0} == 0 )); then touch "$FOLDER/started"; sleep 300; fi'
    job = submit(slurm, tmp_path, launcher, FOLDER=str(tmp_path), STOP_TIMEOUT="1")
    wait(slurm, job, lambda _: (tmp_path / "started").exists())
    slurm.ask("scancel", "--signal=USR1", "--batch", job)
    state = wait(slurm, job, over)
    assert (state["JobState"], state["Restarts"]) == ("COMPLETED", "1")
    assert "not saved in time" in (tmp_path / "logs" / f"{job}.0" / "job.log").read_text()


def test_a_run_that_fails_is_not_started_again(slurm: LocalSlurm, tmp_path: Path) -> None:
    marker = uuid.uuid4().hex
    launcher = f"echo why it failed; {UNTIL_ASKED}\nexit 7"
    job = submit(slurm, tmp_path, launcher, **{"FOLDER": str(tmp_path), MARKER: marker})
    wait(slurm, job, lambda _: (tmp_path / "started-0").exists())
    # Asked, but it fails by itself.
    slurm.ask("scancel", "--signal=USR1", "--batch", job)
    state = wait(slurm, job, over)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "7:0", "0")
    assert "why it failed" in (tmp_path / "logs" / "latest" / "job.log").read_text()
    # A timer that outlived the script would later end whatever has got its process id.
    assert left_by(marker) == []


def test_a_request_by_hand_ends_the_job(slurm: LocalSlurm, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path, f"{UNTIL_ASKED}\nexit 75", FOLDER=str(tmp_path))
    wait(slurm, job, lambda _: (tmp_path / "started-0").exists())
    (tmp_path / "logs" / "latest" / "stop").touch()
    state = wait(slurm, job, over)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "75:0", "0")


def test_attempts_are_limited(slurm: LocalSlurm, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path, f"{UNTIL_ASKED}\nexit 75", FOLDER=str(tmp_path), MAX_ATTEMPTS="2")
    for number in range(2):
        wait(slurm, job, lambda _, number=number: (tmp_path / f"started-{number}").exists())  # type: ignore[misc]
        slurm.ask("scancel", "--signal=USR1", "--batch", job)
    state = wait(slurm, job, over)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "75:0", "1")
    assert "MAX_ATTEMPTS=2" in (tmp_path / "logs" / "latest" / "job.log").read_text()


def test_a_job_that_slurm_does_not_requeue_ends_and_says_how_to_go_on(slurm: LocalSlurm, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path, f"{UNTIL_ASKED}\nexit 75", FOLDER=str(tmp_path), SBATCH_NO_REQUEUE="1")
    wait(slurm, job, lambda _: (tmp_path / "started-0").exists())
    slurm.ask("scancel", "--signal=USR1", "--batch", job)
    state = wait(slurm, job, over)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("FAILED", "75:0", "0")
    assert "sbatch the same command to go on" in (tmp_path / "logs" / "latest" / "job.log").read_text()


def test_a_cancelled_run_stays_cancelled(slurm: LocalSlurm, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path, 'touch "$FOLDER/started"; sleep 300', FOLDER=str(tmp_path))
    wait(slurm, job, lambda _: (tmp_path / "started").exists())
    slurm.ask("scancel", job)
    state = wait(slurm, job, over)
    time.sleep(3)
    assert (slurm.job(job)["JobState"], state["Restarts"]) == ("CANCELLED", "0")
