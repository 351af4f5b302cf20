"""What a launcher starts on the first node in place of the training: Ray on all nodes, then the training on it.

`node.sh` hands it to the launcher as SPRO_LAUNCH, so it sees what the launcher has set in the environment. Ray's worker
processes have the environment of the Ray that started them, not of the driver: without this the metrics file, the
plugin or a platform chosen by a variable would be lost on every node.

Ends with the training's status; 75 (EX_TEMPFAIL): it was asked to end, and its checkpoint is saved.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from scripts.slurm import ray_node
from scripts.slurm.attempt import Attempt, Cluster, NodeError, added_environment, read_environment, versions
from scripts.slurm.ray_node import RayNode

EX_TEMPFAIL = 75

# Ray refuses them where it is attached to a cluster; here `ray start` is told. Last, so that they win.
ATTACHED = tuple(f"++ray_kwargs.ray_init.{key}=null" for key in ("num_cpus", "num_gpus", "object_store_memory"))

# verl's bundle of a GPU: ResourcePoolManager.max_colocate_count CPUs, and the task runner beside them.
_CPUS_PER_GPU = 3

# Of a driver whose cluster has lost a node: Ray tells it, unless it hangs in a collective.
_LEAVE_S = 60.0


def missing_message(attempt: Attempt, joined: Sequence[str], failures: Mapping[str, str], waited_s: float) -> str:
    """Names the nodes that are not there, why as far as it is known, and where to look."""
    lines = []
    for node in attempt.nodes:
        if node in failures:
            lines.append(f"node {node} cannot take part: {failures[node]} Its log: {attempt.log_of(node)}")
        elif node not in joined:
            heard = "" if attempt.log_of(node).exists() else " Its task has not even started."
            lines.append(
                f"node {node} has not joined Ray after {waited_s:.0f} s.{heard} Its log: {attempt.log_of(node)} "
                "(JOIN_TIMEOUT= sets how long to wait)"
            )
    return "\n".join(lines)


def resources_message(nodes: Mapping[str, Mapping[str, float]]) -> str:
    """What is wrong with the resources that the nodes offer; empty if nothing is.

    Args:
        nodes: by name, what Ray counts there.
    """
    gpus = {name: int(resources.get("GPU", 0)) for name, resources in nodes.items()}
    without = [name for name, count in gpus.items() if count == 0]
    if without:
        return (
            f"no GPU on {', '.join(without)}, as far as Ray sees. Ask Slurm for them (--gpus-per-node=), or set "
            "RAY_NUM_GPUS= for logical ones (+stack=cpu)."
        )
    if len(set(gpus.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in gpus.items())
        return f"the nodes have different numbers of GPUs ({counts}); verl wants trainer.n_gpus_per_node on each."
    for name, resources in nodes.items():
        if resources.get("CPU", 0) <= _CPUS_PER_GPU * gpus[name]:
            return (
                f"node {name} has {resources.get('CPU', 0):.0f} CPUs in Ray for {gpus[name]} GPUs. verl asks for more "
                f"than {_CPUS_PER_GPU} a GPU and would wait for ever: --cpus-per-task= for real ones, or RAY_NUM_CPUS= "
                "(logical, of each node)."
            )
    return ""


def _alive() -> dict[str, dict[str, float]]:
    import ray

    return {node["NodeName"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def wait_for_nodes(attempt: Attempt, address: str) -> None:
    """Until every node of the job is in Ray's list, with resources that verl can use.

    Raises:
        NodeError: a node gave up, did not come in time, or lacks something.
    """
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="error")
    try:
        start, told = time.monotonic(), -1
        while True:
            alive = _alive()
            missing = [node for node in attempt.nodes if node not in alive]
            waited = time.monotonic() - start
            if len(alive) != told:
                told = len(alive)
                waiting = f"; waiting for {', '.join(missing)}" if missing else ""
                attempt.tell(f"{told} of {len(attempt.nodes)} nodes in Ray after {waited:.0f} s{waiting}")
            if not missing:
                break
            failures = attempt.failures()
            if failures or waited > attempt.timeout_s:
                raise NodeError(missing_message(attempt, list(alive), failures, waited))
            time.sleep(1)
    finally:
        ray.shutdown()
    for name, resources in sorted(alive.items()):
        attempt.tell(f"{name}: {resources.get('CPU', 0):.0f} CPUs, {resources.get('GPU', 0):.0f} GPUs")
    if wrong := resources_message(alive):
        raise NodeError(wrong)


def _watch(attempt: Attempt, driver: subprocess.Popen[bytes], ray: RayNode) -> int:
    """The training's status; a driver that outlives its cluster is ended."""
    lost_at = None
    while (status := driver.poll()) is None:
        if lost_at is None:
            lost = [
                f"node {node} left the cluster: {why} Its log: {attempt.log_of(node)}"
                for node, why in attempt.failures().items()
            ]
            if (ended := ray.poll()) is not None:
                lost.append(f"Ray's head ended with status {ended}. Its log: {attempt.log_of(attempt.node)}")
            if lost:
                lost_at = time.monotonic()
                attempt.tell("\n".join(lost))
        elif time.monotonic() - lost_at > _LEAVE_S:
            attempt.tell(f"the training still runs {_LEAVE_S:.0f} s after that and is ended.")
            ray_node.end(driver)
        time.sleep(1)
    return status


def train(attempt: Attempt, overrides: Sequence[str]) -> int:
    """Start Ray, wait for all nodes, train; returns the exit status.

    Raises:
        NodeError: there is no cluster to train on.
    """
    # Before Ray is imported, which adds to it.
    environment = dict(os.environ)
    before = attempt.folder / "environment-before"
    added = added_environment(read_environment(before), environment)
    # Secrets may be in it.
    before.unlink()
    ray_node.check()
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    import ray

    from verl_ext import stop_request

    host = ray_node.address_of_this_node() or ray.util.get_node_ip_address()
    address = f"{host}:{port}"
    arguments = ["--head", f"--port={port}", f"--node-ip-address={host}", "--include-dashboard=false"]
    head = RayNode.start(attempt, [*arguments, f"--temp-dir={ray_node.temporary_folder(attempt)}"])
    driver: subprocess.Popen[bytes] | None = None
    try:
        ray_node.wait_for_port(address, head, attempt.timeout_s)
        Cluster(address, os.getcwd(), added, versions()).write(attempt)
        attempt.tell(f"Ray's head is at {address}; the launcher has set {', '.join(sorted(added)) or 'nothing'}")
        wait_for_nodes(attempt, address)
        entry = os.environ.get("ENTRY", "recipe.spro.main_spro")
        attempt.tell(f"training: {entry}")
        command = [sys.executable, "-m", entry, *overrides, *ATTACHED]
        driver = subprocess.Popen(command, env={**environment, "RAY_ADDRESS": address})
        status = _watch(attempt, driver, head)
    finally:
        if driver is not None:
            ray_node.end(driver)
        head.end()
    mark = stop_request.saved_mark(attempt.folder / "stop")
    if status != 0 and mark.exists():
        attempt.tell(f"asked to end: the checkpoint is {mark.read_text().strip()}")
        return EX_TEMPFAIL
    attempt.tell(f"the training ended with status {status}")
    return status


def main() -> None:
    """See the module; the arguments are the launcher's overrides."""
    attempt = Attempt.from_environment()
    ray_node.end_with_this_task()
    status = 1
    try:
        status = train(attempt, sys.argv[1:])
    except NodeError as error:
        attempt.tell(str(error))
    finally:
        ray_node.clean_up(attempt, keep_logs=status not in (0, EX_TEMPFAIL))
    sys.exit(status)


if __name__ == "__main__":
    main()
