"""What the nodes of a job tell each other, and what they say when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.slurm.attempt import Attempt, Cluster, added_environment, differing_versions, read_environment, versions
from scripts.slurm.head import ATTACHED, missing_message, resources_message
from scripts.slurm.ray_node import address_of_this_node
from tests.support import ROOT, composed


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return Attempt(tmp_path, "n1", ("n1", "n2", "n3"), 60)


def test_what_a_launcher_sets_is_carried_and_what_is_a_nodes_is_not(tmp_path: Path) -> None:
    before = tmp_path / "before"
    launcher = tmp_path / "launcher.sh"
    launcher.write_text(
        'export VERL_FILE_LOGGER_PATH="a\nb" KEPT=new SLURM_X=1 CUDA_VISIBLE_DEVICES=3\nenv -0 > "$1"\n'
    )
    environment = {"PATH": os.environ["PATH"], "KEPT": "old", "SAME": "=x="}
    after = tmp_path / "after"
    with before.open("wb") as file:
        subprocess.run(["env", "-0"], env=environment, stdout=file, check=True)
    subprocess.run(["bash", str(launcher), str(after)], env=environment, check=True)
    assert added_environment(read_environment(before), read_environment(after)) == {
        "VERL_FILE_LOGGER_PATH": "a\nb",
        "KEPT": "new",
    }


def test_the_first_node_is_understood_by_the_others(attempt: Attempt) -> None:
    assert Cluster.read(attempt) is None
    cluster = Cluster("10.0.0.1:6379", "/work", {"A": "é\n"}, versions())
    cluster.write(attempt)
    assert Cluster.read(attempt) == cluster
    assert differing_versions(versions(), cluster.versions) == ""


def test_other_versions_are_named() -> None:
    text = differing_versions({"python": "3.11", "ray": "2.50"}, {"python": "3.11", "ray": "2.60", "verl": "0.9.1"})
    assert text == "ray 2.50 (the head: 2.60), verl missing (the head: 0.9.1)"


def test_missing_nodes_are_named_with_their_logs(attempt: Attempt) -> None:
    attempt.log_of("n2").touch()
    attempt.write("failed-n3", "no GPU driver\n")
    message = missing_message(attempt, ["n1"], attempt.failures(), 61)
    assert f"node n2 has not joined Ray after 61 s. Its log: {attempt.folder}/node-n2.log" in message
    assert f"node n3 cannot take part: no GPU driver Its log: {attempt.folder}/node-n3.log" in message
    assert "n1 " not in message
    attempt.log_of("n2").unlink()
    assert "n2 has not joined Ray after 61 s. Its task has not even started" in missing_message(attempt, [], {}, 61)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ({"n1": {"CPU": 25.0, "GPU": 8.0}, "n2": {"CPU": 25.0, "GPU": 8.0}}, ""),
        ({"n1": {"CPU": 25.0, "GPU": 8.0}, "n2": {"CPU": 25.0}}, "no GPU on n2"),
        ({"n1": {"CPU": 25.0, "GPU": 8.0}, "n2": {"CPU": 25.0, "GPU": 7.0}}, "n1 8, n2 7"),
        ({"n1": {"CPU": 24.0, "GPU": 8.0}}, "RAY_NUM_CPUS="),
    ],
)
def test_resources_that_verl_would_wait_for(nodes: dict[str, dict[str, float]], said: str) -> None:
    message = resources_message(nodes)
    assert said in message
    assert bool(message) == bool(said)


def test_verl_asks_for_as_many_cpus_as_we_check() -> None:
    from verl.single_controller.ray.base import ResourcePoolManager

    from scripts.slurm.head import _CPUS_PER_GPU

    assert ResourcePoolManager.max_colocate_count == _CPUS_PER_GPU


def test_attached_to_a_cluster_nothing_is_asked_of_ray_init() -> None:
    config = composed("+stack=cpu", "ray_kwargs.ray_init.num_gpus=2", *ATTACHED)
    ray_init = config.ray_kwargs.ray_init
    assert (ray_init.num_gpus, ray_init.num_cpus, ray_init.object_store_memory) == (None, None, None)
    # A launcher that says nothing of them composes too.
    composed(*ATTACHED)


def test_an_interface_is_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.slurm.attempt import NodeError

    monkeypatch.setenv("NODE_INTERFACE", "lo")
    assert address_of_this_node() == "127.0.0.1"
    monkeypatch.setenv("NODE_INTERFACE", "ib7")
    with pytest.raises(NodeError, match=r"NODE_INTERFACE=ib7.*lo"):
        address_of_this_node()
    monkeypatch.setenv("NODE_INTERFACE", "")
    assert address_of_this_node() is None


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python without any package, as on a node where VENV= is forgotten."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return folder / "bin" / "python"


@pytest.mark.parametrize("module", ["head", "worker"])
def test_a_node_that_lacks_a_package_says_so(module: str, bare_python: Path, tmp_path: Path) -> None:
    (tmp_path / "environment-before").touch()
    done = subprocess.run(
        [str(bare_python), "-m", f"scripts.slurm.{module}"],
        cwd=ROOT,
        env={"SPRO_ATTEMPT": str(tmp_path), "SPRO_NODES": "n1 n2", "SLURMD_NODENAME": "n2", "RAY_TMP": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    said = (tmp_path / "cluster.log").read_text()
    assert f"n2: {bare_python} cannot import psutil, ray, verl with VERL_USE_EXTERNAL_MODULES=: " in said
    assert "No module named 'psutil'. Set VENV= or CONTAINER_IMAGE= to" in said
    assert not (tmp_path / "environment-before").exists() or module == "worker"


def dry_run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "scripts/slurm/train.sbatch", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DRY_RUN": "1", **environment},
        capture_output=True,
        text=True,
    )


LAUNCHERS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("recipe/*/run_*.sh"))


@pytest.mark.parametrize("launcher", [*LAUNCHERS, "examples/arithmetic/run.sh"])
def test_a_dry_run_prints_the_command(launcher: str) -> None:
    done = dry_run(launcher, "trainer.test_freq=5", SLURM_JOB_NUM_NODES="4", SLURM_CPUS_PER_TASK="96")
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[-1]
    assert command.startswith("srun --nodes=4 --ntasks=4 --ntasks-per-node=1 ")
    assert "--cpus-per-task=96" in command
    assert command.endswith(f"bash {ROOT}/scripts/slurm/node.sh {launcher} trainer.test_freq=5 ")


def test_containers_are_asked_for() -> None:
    done = dry_run(LAUNCHERS[0], CONTAINER_IMAGE="verl.sqsh", SRUN_ARGS="--exclusive")
    assert f"--container-image=verl.sqsh --container-mounts={ROOT},{ROOT}/outputs/slurm/spro" in done.stdout.replace(
        "\\", ""
    )
    assert "--exclusive bash" in done.stdout
    assert " apptainer exec --nv verl.sif bash" in dry_run(LAUNCHERS[0], WRAP="apptainer exec --nv verl.sif").stdout


def test_what_cannot_be_submitted_is_said() -> None:
    assert "usage: sbatch" in dry_run().stderr
    missing = dry_run("recipe/spro/run_nothing.sh")
    assert missing.returncode == 2
    assert "run_nothing.sh: no such file" in missing.stderr
