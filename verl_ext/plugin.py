"""Loads every extension of this package, in each process that needs it.

`import verl` loads it when ``VERL_USE_EXTERNAL_MODULES`` names this module (or one that imports
it, such as ``recipe.spro.plugin``) or through the entry point in group ``verl.plugins``. vLLM's
own processes call `load_in_vllm` through ``vllm.general_plugins``. Loading only registers hooks:
a module is patched when it is imported, so this costs milliseconds.

The environment variable is the loud way: verl swallows errors of entry points at DEBUG level, so
a failure is also written to stderr here.
"""

from __future__ import annotations

import importlib
import sys
import traceback

EXTENSIONS = (
    "cpu",
    "config_checks",
    # Before the extensions that act around V1's advantage stage: it replaces what is in their middle.
    "jagged_advantage",
    "estimator_context",
    "estimator_inputs",
    "estimator_metrics",
    "estimator_state",
    # After estimator_context, which adds fields to what is fetched inside the advantage stage: it acts before that.
    "companion_model",
    "generated_tokens",
    # After what replaces the advantage stage: it acts around it.
    "log_prob_gate",
    "memory_metrics",
    "poll_interval",
    "preflight",
    # Before resume, which chooses the checkpoint first.
    "reference_update",
    "resume",
    "reward_checks",
    "reward_dumps",
    "reward_metrics",
    "run_record",
    "saved_weights",
    "step_observers",
    # Before step_watch, which may end the run right after a row is logged: its images belong to the row.
    "tracking_images",
    "step_watch",
    "stop_request",
    "tracking",
    "trainer_modes",
    "truncated_responses",
    "weight_socket",
    "weight_versions",
)


def _load() -> None:
    for name in EXTENSIONS:
        importlib.import_module(f"verl_ext.{name}").install()


def load_in_vllm() -> None:
    """Entry point of group ``vllm.general_plugins``: what vLLM's engine and workers need."""
    from verl_ext import cpu

    cpu.install_in_vllm()


try:
    _load()
except Exception:
    print("verl_ext.plugin could not be loaded:", file=sys.stderr)
    traceback.print_exc()
    raise
