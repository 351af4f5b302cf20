"""Has the rollout's weights replaced while responses are being written: always, not by chance.

Loaded by verl as a plugin. The prompts that the trainer needs before its first synchronisation are answered at once;
the later ones (`agent_loops.LateAgent`) wait for it. It says that it is about to replace the weights, waits until all
the responses that are expected then have some tokens, and goes on: verl interrupts them where they are, and continues
them with the new weights. Prompts after those wait until they are answered, so that the next batch is theirs.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.e2e.stack import Run
from verl_ext.patching import on_import, wrap

# In the environment of a run: the file by which the trainer says it, the first prompt (by `extra_info.index`) that
# waits for that, and the responses that are then under way.
ANNOUNCED, LATE_FROM, EXPECTED = "SPRO_TEST_ANNOUNCED", "SPRO_TEST_LATE_FROM", "SPRO_TEST_EXPECTED"

# Responses to a prompt.
N = 4

# Tokens that a response has at least when its weights are replaced, and in the end. Between looking and replacing some
# more are written: two or three on an idle machine.
WRITTEN, LENGTH = 40, 120

TIMEOUT_S = 120.0


def overrides(folder: Path) -> list[str]:
    """Prompts in order, responses of `LENGTH` tokens, and the agent that waits.

    Args:
        folder: of the run, for a file of verl's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    loops = folder / "agent_loops.yaml"
    # In place of verl's own of that name, which fully_async asks for whatever the configuration says.
    loops.write_text("- name: single_turn_agent\n  _target_: tests.e2e.agent_loops.LateAgent\n")
    rollout = "actor_rollout_ref.rollout"
    return [
        "data.shuffle=False",
        f"data.max_response_length={LENGTH}",
        f"{rollout}.max_model_len={LENGTH + 8}",
        f"{rollout}.ignore_eos=True",
        f"{rollout}.agent.agent_loop_config_path={loops}",
    ]


def prepare(run: Run, *, late_from: int, expected: int) -> Run:
    """Have the first synchronisation of a run with these `overrides` interrupt ``expected`` responses."""
    run.environment["VERL_USE_EXTERNAL_MODULES"] += f",{__name__}"
    run.environment |= {
        ANNOUNCED: str(run.folder / "announced"),
        LATE_FROM: str(late_from),
        EXPECTED: str(expected),
    }
    return run


def announced() -> bool:
    """Whether the trainer has said that it is about to replace the weights for the first time."""
    return Path(os.environ[ANNOUNCED]).exists()


def waits(index: int) -> bool:
    """Whether the prompt is one of those that wait, and still must."""
    late_from, expected = int(os.environ[LATE_FROM]), int(os.environ[EXPECTED])
    if index < late_from:
        return False
    if index < late_from + expected // N:
        return not announced()
    return len(list(_answered().glob("*"))) < expected


def note_answered(index: int) -> None:
    """A response is complete; those that were not to be interrupted are not counted."""
    late_from, expected = int(os.environ[LATE_FROM]), int(os.environ[EXPECTED])
    if late_from <= index < late_from + expected // N:
        _answered().mkdir(exist_ok=True)
        (_answered() / uuid.uuid4().hex).touch()


def _answered() -> Path:
    return Path(os.environ[ANNOUNCED]).with_name("answered")


def _tokens_written(server: Any) -> list[int]:
    """Of each response under way; called in verl's server of vLLM."""
    return [state.detokenizer.num_output_tokens() for state in server.engine.output_processor.request_states.values()]


def _wait_for_responses(replicas: list[Any]) -> None:
    import ray

    expected, deadline = int(os.environ[EXPECTED]), time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        servers = [server for replica in replicas for server in replica.servers]
        of_servers = ray.get([server.__ray_call__.remote(_tokens_written) for server in servers])
        written = [tokens for of_server in of_servers for tokens in of_server]
        if len(written) == expected and min(written) >= WRITTEN:
            print(f"replacing the weights of {len(written)} responses of {min(written)} to {max(written)} tokens")
            return
        time.sleep(0.005)
    raise TimeoutError(f"{len(written)} responses are under way, and {expected} were expected")


def _interrupting(original: Callable[..., Any]) -> Callable[..., Any]:
    from verl.utils.ray_utils import auto_await

    # As verl's own: it looks at its caller to tell whether it is awaited.
    @auto_await
    async def update_weights(self: Any, global_steps: int | None = None) -> Any:
        # The first model is version 0.
        if global_steps == 1 and not announced():
            Path(os.environ[ANNOUNCED]).touch()
            _wait_for_responses(self.replicas)
        return await original(self, global_steps)

    return update_weights


def _apply(module: ModuleType) -> None:
    wrap(module.CheckpointEngineManager, "update_weights", _interrupting, patch=__name__, parameters=("global_steps",))


on_import("verl.checkpoint_engine.base", _apply)
