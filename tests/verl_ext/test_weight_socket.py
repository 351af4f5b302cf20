"""Two clusters on one machine must not share the socket of the weights."""

from __future__ import annotations

import pytest

from verl_ext.patching import PatchError
from verl_ext.weight_socket import of_this_cluster

HANDLE = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-1.sock"


def test_clusters_get_different_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_RAYLET_PID", "11")
    first = of_this_cluster(HANDLE)
    monkeypatch.setenv("RAY_RAYLET_PID", "12")
    assert first != of_this_cluster(HANDLE)
    assert first == "ipc:///tmp/rl-colocate-zmq-11-01000000-replica-0-rank-1.sock"


def test_outside_ray_the_name_is_verls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_RAYLET_PID", raising=False)
    assert of_this_cluster(HANDLE) == HANDLE


def test_another_naming_of_verls_is_an_error() -> None:
    with pytest.raises(PatchError, match="rl-colocate-zmq"):
        of_this_cluster("ipc:///tmp/other.sock")


def test_both_ends_are_patched() -> None:
    utils = pytest.importorskip("verl.workers.rollout.vllm_rollout.utils")
    rollout = pytest.importorskip("verl.workers.rollout.vllm_rollout.vllm_rollout")
    for function in (utils.vLLMColocateWorkerExtension._get_zmq_handle, rollout.ServerAdapter.__init__):
        assert "verl_ext.weight_socket" in function.__verl_ext_patch__
