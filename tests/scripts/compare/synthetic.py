"""Small runs whose every statistic can be computed by hand, and the formats that they come in."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

ACCURACY = "val-core/arithmetic/acc/mean@1"

# One step: 4 responses of 10 tokens after prompts of 5, two seconds, of which one generates.
STEP = {
    "response_length/mean": 10.0,
    "prompt_length/mean": 5.0,
    "perf/total_num_tokens": 60,
    "response_length/clip_ratio": 0.25,
    "actor/entropy": 0.5,
    "timing_s/step": 2.0,
    "timing_s/gen": 1.0,
    "timing_s/update_actor": 0.75,
}


def rows(accuracies: list[float], more: dict[str, float] | None = None, every: int = 10) -> list[dict[str, Any]]:
    """A run evaluated each ``every`` steps from 0 on; ``more`` is added to, or overrides, what each step logs."""
    found: list[dict[str, Any]] = [{"step": 0, "data": {ACCURACY: accuracies[0]}}]
    for step in range(1, every * (len(accuracies) - 1) + 1):
        data = STEP | (more or {})
        if step % every == 0:
            data = {**data, ACCURACY: accuracies[step // every]}
        found.append({"step": step, "data": data})
    return found


def settings(method: str, seed: int, beta: float | None = None, **more: Any) -> dict[str, Any]:
    """A settings file as `scripts.compare run` and the worked example write it."""
    common = {"lr": 1e-4, "steps": 40, "heldout_n": 100, "ranks": 2, "overrides": []}
    return {"method": method, "beta": beta, "seed": seed} | common | more


def keep(folder: Path, name: str, logged: list[dict[str, Any]], made_with: dict[str, Any] | None) -> Path:
    """A kept run: gzipped metrics, settings beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in logged).encode(), mtime=0))
    if made_with is not None:
        (folder / f"{name}.json").write_text(json.dumps(made_with))
    return path


def as_csv(path: Path, logged: list[dict[str, Any]]) -> Path:
    """What W&B's `run.history()` gives as CSV: a column a metric, empty where a step did not log it."""
    columns = sorted({key for row in logged for key in row["data"]})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["_step", "_runtime", "_timestamp", *columns])
        writer.writeheader()
        for row in logged:
            writer.writerow({"_step": row["step"], "_runtime": 1.5, "_timestamp": 1.7e9, **row["data"]})
    return path


def as_scan(path: Path, logged: list[dict[str, Any]]) -> Path:
    """W&B's `scan_history()`, a row a line."""
    path.write_text(
        "".join(json.dumps({"_step": row["step"], "_runtime": 1.5, **row["data"]}) + "\n" for row in logged)
    )
    return path


def as_tensorboard(folder: Path, logged: list[dict[str, Any]]) -> Path:
    """The event files that verl's TensorBoard tracker writes."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for row in logged:
            for key, value in row["data"].items():
                writer.add_scalar(key, value, row["step"])
    return folder


def provenance(**more: Any) -> dict[str, Any]:
    """What `scripts.compare run` records."""
    return {
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "versions": {"verl": "0.9.1", "torch": "2.13.0+cpu"},
        "hardware": {"cpu": "Some CPU", "cores": 2, "memory_gib": 15.6, "devices": "none"},
        "overrides": ["algorithm.adv_estimator=grpo", "data.train_batch_size=16", "trainer.experiment_name=one"],
        "runs_at_once": 1,
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:05:00+00:00",
    } | more


def family(folder: Path) -> Path:
    """Three methods over two seeds with memory and provenance; one PRIME run collapses; one rate differs."""
    memory = {"memory/actor/weights_gib": 2.0, "memory/actor/optimizer_gib": 4.0, "memory/rollout/weights_gib": 2.0}
    reference = {"memory/reference/weights_gib": 2.0, "actor/reward_kl_penalty": 0.01, "timing_s/ref": 0.2}
    model = {"memory/reward_model/weights_gib": 2.0, "memory/reward_model/optimizer_gib": 4.0}
    curves = {
        "grpo": ([0.2, 0.4, 0.5, 0.6], [0.2, 0.3, 0.5, 0.6]),
        "spro": ([0.2, 0.5, 0.6, 0.7], [0.2, 0.45, 0.6, 0.6]),
        "prime": ([0.2, 0.5, 0.55, 0.5], [0.2, 0.6, 0.1, 0.05]),
    }
    for method, by_seed in curves.items():
        for seed, curve in enumerate(by_seed):
            more = dict(memory)
            if method != "grpo":
                more |= reference
            if method == "spro":
                more |= {"spro/process_share": 0.02, "timing_s/step": 2.2}
            if method == "prime":
                more |= model | {"timing_s/reward_model": 0.5, "timing_s/step": 2.7}
            estimator = [f"algorithm.adv_estimator={method}", "data.train_batch_size=16"]
            made = settings(
                method, seed, None if method == "grpo" else 0.01, provenance=provenance(overrides=estimator)
            )
            if (method, seed) == ("prime", 1):
                made["lr"] = 2e-4
            keep(folder, f"{method}-seed{seed}", rows(curve, more), made)
    return folder
