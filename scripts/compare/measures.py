"""What a comparison needs of one run: its accuracy curve, what each step had cost until then, phases, memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median

from scripts.compare.statistics import collapse_step
from scripts.runs import BadRun, Run
from verl_ext.generated_tokens import METRIC as GENERATED
from verl_ext.truncated_responses import METRIC as TRUNCATED

# verl's name of what a validation measured: val-core/<data source>/<variable>/mean@<samples>.
ACCURACY = re.compile(r"val-core/(?P<source>.+)/(?P<variable>acc|reward|score)/mean@(?P<samples>\d+)")

# Not phases: the whole step, what lies outside of it, and parts of other phases.
NO_PHASES = {"step", "testing", "start_profile", "stop_profile", "generate_sequences", "reshard"}

MEMORY = re.compile(r"memory/(?P<component>[^/]+)/(?P<what>.+)_gib")

# What verl itself logs: the most that torch had allocated on the driver-visible worker, in GiB in spite of its name.
WORKER_MEMORY = ("perf/max_memory_allocated_gb", "actor/perf/max_memory_allocated_gb")


@dataclass(frozen=True)
class Panel:
    """One quantity of training, drawn over steps: which metric, and how it reads."""

    name: str
    title: str
    unit: str
    keys: tuple[str, ...]
    digits: int
    note: str = ""


PANELS = (
    Panel("entropy", "Policy entropy", "nats per token", ("actor/entropy",), 3),
    Panel("length", "Response length", "mean tokens", ("response_length/mean",), 1),
    # verl's own compares with the longest response of the batch: it stands in for runs without ours.
    Panel(
        "truncation",
        "Truncated responses",
        "share of responses",
        (TRUNCATED, "response_length/clip_ratio"),
        3,
    ),
    Panel(
        "kl",
        "KL to the reference",
        "nats per token",
        ("actor/reward_kl_penalty", "actor/kl_loss"),
        4,
        "only runs with a reference policy have one",
    ),
    Panel(
        "share",
        "Process share",
        "rms process / rms outcome",
        ("spro/process_share", "prime/process_share"),
        4,
        "only methods with a process term have one",
    ),
)


@dataclass
class Measures:
    """One run, measured.

    Attributes:
        curve: (step, held-out accuracy), 0 to 1.
        tokens, seconds: until the end of each step from 0 on; None where the run did not log what they need.
        missing: steps without a logged time or token count, each counted as the run's median step.
        devices: and where the number comes from, if it is not in the settings.
        collapse: the evaluation at which the run collapsed for good, or None.
    """

    run: Run
    curve: list[tuple[int, float]]
    tokens: dict[int, float] | None
    seconds: dict[int, float] | None
    missing: int
    devices: int
    devices_from: str
    collapse: int | None
    phases: dict[str, float] = field(default_factory=dict)
    step_seconds: float | None = None
    memory: dict[tuple[str, str], float] = field(default_factory=dict)
    worker_memory: float | None = None

    def at(self, axis: str, step: int) -> float | None:
        """The cost until the end of ``step``: steps, tokens, wall-clock (s) or device-hours; None where unknown."""
        if axis == "steps":
            return float(step)
        totals = self.tokens if axis == "tokens" else self.seconds
        if totals is None:
            return None
        # An evaluation may be logged at a step past the last one that trained.
        spent = totals[min(step, max(totals))]
        return spent * self.devices / 3600 if axis == "device-hours" else spent

    @property
    def last(self) -> int:
        """The last step that logged anything."""
        return max(self.run.steps)

    @property
    def final(self) -> float:
        """Accuracy at the last evaluation."""
        return self.curve[-1][1]

    @property
    def best(self) -> float:
        """The highest accuracy of any evaluation."""
        return max(accuracy for _, accuracy in self.curve)

    def late(self, panel: Panel) -> float | None:
        """Mean of a panel's metric over the last tenth of the steps that logged it; None where none did."""
        _, values = self.run.series(*panel.keys)
        return fmean(values[-max(1, len(values) // 10) :]) if values else None


def accuracy_keys(runs: list[Run], wanted: str | None = None) -> list[str]:
    """The metrics whose mean is the accuracy: the same for all runs.

    ``wanted`` alone if given. Else the best that every run logged: `acc` before `reward` before `score`, the fewest
    samples a problem (mean@1 is verl's greedy validation) before more; all data sources of it.

    Raises:
        BadRun: a run has no such metric, or none is common to all.
    """
    if wanted is not None:
        without = next((run for run in runs if wanted not in run.logged()), None)
        if without is not None:
            there = ", ".join(sorted(key for key in without.logged() if key.startswith("val-"))) or "none"
            raise BadRun(f"{without.source} never logged {wanted}; its val- metrics: {there}.")
        return [wanted]
    for run in runs:
        if not any(ACCURACY.fullmatch(key) for key in run.logged()):
            raise BadRun(
                f"{run.source} has no held-out accuracy (val-core/*/acc/mean@1): train with trainer.test_freq above 0, "
                "or name another metric with --accuracy KEY."
            )
    common = set.intersection(*(run.logged() for run in runs))
    found = [match for key in sorted(common) if (match := ACCURACY.fullmatch(key))]
    if not found:
        raise BadRun("No held-out accuracy is common to all runs: compare runs of the same validation data.")
    order = ("acc", "reward", "score")
    rank = min((order.index(match["variable"]), int(match["samples"])) for match in found)
    return [m[0] for m in found if (order.index(m["variable"]), int(m["samples"])) == rank]


def measure(run: Run, keys: list[str], devices: int | None = None) -> Measures:
    """Measure one run; ``devices`` overrides what its settings or its throughput say.

    Raises:
        BadRun: no step has all of the accuracy's metrics.
    """
    curve = [(step, fmean(row[key] for key in keys)) for step, row in run.steps.items() if all(k in row for k in keys)]
    if not curve:
        raise BadRun(f"{run.source}: no evaluation logged all of {', '.join(keys)}.")
    tokens, tokens_missing = _cumulative(run, _tokens)
    seconds, seconds_missing = _cumulative(run, lambda row: row.get("timing_s/step"))
    count, origin = _devices(run, devices)
    memory = {
        (match["component"], match["what"]): value
        for key in sorted(run.logged())
        if (match := MEMORY.fullmatch(key)) and (value := run.maximum(key)) is not None
    }
    workers = [value for key in WORKER_MEMORY if (value := run.maximum(key)) is not None]
    return Measures(
        run=run,
        curve=curve,
        tokens=tokens,
        seconds=seconds,
        missing=max(tokens_missing, seconds_missing),
        devices=count,
        devices_from=origin,
        collapse=collapse_step(curve),
        phases=_phases(run),
        step_seconds=run.warm_mean("timing_s/step"),
        memory=memory,
        worker_memory=workers[0] if workers else None,
    )


def _tokens(row: dict[str, float]) -> float | None:
    """Generated tokens of one step: as `verl_ext` counts them, those that were thrown away included.

    Without that count, mean response length times the number of responses that were trained on. verl logs no number of
    them; it follows from all tokens over the mean length of prompt and response together.
    """
    if GENERATED in row:
        return row[GENERATED]
    names = ("response_length/mean", "prompt_length/mean", "perf/total_num_tokens")
    if not all(name in row for name in names):
        return None
    response, prompt, total = (row[name] for name in names)
    return response * round(total / (prompt + response)) if prompt + response > 0 else 0.0


def _cumulative(run: Run, of: Callable[[dict[str, float]], float | None]) -> tuple[dict[int, float] | None, int]:
    """Total until the end of each step from 0 on, and how many training steps had to be filled with the median."""
    logged = {step: value for step, row in run.steps.items() if (value := of(row)) is not None}
    if not logged:
        return None, 0
    usual, total, missing, totals = median(logged.values()), 0.0, 0, {}
    # Step 0 is the validation before training.
    for step in range(max(max(logged), 0) + 1):
        total += logged.get(step, usual if step > 0 else 0.0)
        missing += step > 0 and step not in logged
        totals[step] = total
    return totals, missing


def _devices(run: Run, given: int | None) -> tuple[int, str]:
    if given is not None:
        return given, "--devices"
    if isinstance(run.settings.get("ranks"), int):
        return run.settings["ranks"], "settings"
    # verl's throughput is tokens a second and device.
    names = ("perf/total_num_tokens", "perf/time_per_step", "perf/throughput")
    rows = [[row[name] for name in names] for row in run.steps.values() if all(row.get(name) for name in names)]
    if rows:
        return max(1, round(median(total / (time * rate) for total, time, rate in rows))), "throughput"
    return 1, "assumed"


def _phases(run: Run) -> dict[str, float]:
    """Mean seconds a warm step spends in each phase; a step without a phase counts as 0 there. `other` is the rest."""
    step = run.warm_mean("timing_s/step")
    names = [key.removeprefix("timing_s/") for key in sorted(run.logged()) if key.startswith("timing_s/")]
    # A further slash marks a statistic inside of a phase (timing_s/agent_loop/...).
    names = [name for name in names if name not in NO_PHASES and "/" not in name]
    found = {name: run.warm_mean(f"timing_s/{name}", absent=0.0) for name in names}
    phases = {name: seconds for name, seconds in found.items() if seconds}
    if step is not None and (rest := step - sum(phases.values())) > 0:
        phases["other"] = rest
    return phases
