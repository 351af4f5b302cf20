"""A node other than the first: joins Ray once the first has started it, and leaves when the launcher has ended."""

from __future__ import annotations

import os
import sys
import time

from scripts.slurm import ray_node
from scripts.slurm.attempt import Attempt, Cluster, NodeError, differing_versions, versions
from scripts.slurm.ray_node import RayNode


def _wait_for_head(attempt: Attempt) -> Cluster | None:
    """None: the launcher ended without training."""
    while not attempt.ended():
        if cluster := Cluster.read(attempt):
            return cluster
        time.sleep(1)
    return None


def take_part(attempt: Attempt) -> None:
    """Be a node of the cluster until the launcher has ended.

    Raises:
        NodeError: this node cannot take part, or Ray ended here.
    """
    ray_node.check()
    cluster = _wait_for_head(attempt)
    if cluster is None:
        return
    if differing := differing_versions(versions(), cluster.versions):
        raise NodeError(f"other versions than on {attempt.nodes[0]}: {differing}. Use one environment on every node.")
    os.chdir(cluster.directory)
    os.environ.update(cluster.environment)
    ray = RayNode.start(attempt, [f"--address={cluster.address}"])
    try:
        while not attempt.ended():
            if (status := ray.poll()) is not None:
                raise NodeError(f"Ray ended with status {status}")
            time.sleep(1)
    finally:
        ray.end()


def main() -> None:
    """Status 1 and ``failed-<node>`` where this node cannot take part."""
    attempt = Attempt.from_environment()
    ray_node.end_with_this_task()
    failed = False
    try:
        take_part(attempt)
    except NodeError as error:
        failed = True
        attempt.write(f"failed-{attempt.node}", f"{error}\n")
        attempt.tell(str(error))
    finally:
        status = (attempt.folder / "ended").read_text().strip() if attempt.ended() else ""
        ray_node.clean_up(attempt, keep_logs=failed or status not in ("0", "75"))
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
