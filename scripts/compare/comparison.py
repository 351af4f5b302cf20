"""Runs put together: methods over their seeds, and each against GRPO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

from scripts.compare import statistics
from scripts.compare.measures import Measures, Panel, accuracy_keys, measure
from scripts.compare.statistics import Estimate, first_reach
from scripts.runs import METHOD_NAMES, BadRun, Run

BASELINE = "grpo"
BASELINE_NAME = METHOD_NAMES[BASELINE]

# What it costs to reach an accuracy.
COSTS = ("steps", "tokens", "device-hours")

# A dense curve is averaged over neighbouring steps down to about so many points.
POINTS = 100

# The static parts of a component's memory; a peak contains them.
STATIC = ("weights", "gradients", "optimizer")


@dataclass(frozen=True)
class Reach:
    """How one method gets to one target accuracy.

    Attributes:
        reached: by seed, the first evaluation at or above the target, or None.
        costs: mean over the seeds that reached, by what it costs; present only when all reached and logged it.
        ratios: to GRPO's, only when all runs of both reached.
        mean_step: the first evaluation at which the mean over seeds is at or above the target, or None.
        mean_costs: and what it had cost until then, on average.
        mean_ratios: to GRPO's mean curve; without interval.
    """

    reached: dict[int, int | None]
    costs: dict[str, Estimate]
    ratios: dict[str, Estimate]
    mean_step: int | None
    mean_costs: dict[str, float]
    mean_ratios: dict[str, float]

    @property
    def count(self) -> int:
        """How many seeds reached the target."""
        return sum(step is not None for step in self.reached.values())


@dataclass
class Method:
    """The runs of one label."""

    label: str
    is_baseline: bool
    runs: list[Measures]
    timing: list[Measures] = field(default_factory=list)
    """Runs made to time a step and its memory, in place of those of `runs`; empty: those of `runs`."""
    _bands: dict[Panel, dict[int, Estimate]] = field(default_factory=dict)

    @property
    def timed(self) -> list[Measures]:
        """The runs whose times and memory stand for the method."""
        return self.timing or self.runs

    @property
    def n(self) -> int:
        """How many runs."""
        return len(self.runs)

    @cached_property
    def evaluations(self) -> list[int]:
        """The steps at which every run was evaluated: the means are over these."""
        return sorted(set.intersection(*({step for step, _ in run.curve} for run in self.runs)))

    @cached_property
    def accuracy(self) -> dict[int, Estimate]:
        """Mean accuracy over seeds at each common evaluation. Collapsed runs count like any other."""
        if not self.evaluations:
            return {}
        curves = [dict(run.curve) for run in self.runs]
        rows = [[curve[step] for step in self.evaluations] for curve in curves]
        return dict(zip(self.evaluations, statistics.means(rows), strict=True))

    @property
    def best_step(self) -> int | None:
        """The first evaluation at which the mean over seeds is highest."""
        return max(self.accuracy, key=lambda step: (self.accuracy[step].mean, -step), default=None)

    @property
    def final(self) -> Estimate:
        """Mean of the runs' last evaluations."""
        return statistics.mean([run.final for run in self.runs])

    @property
    def collapsed(self) -> list[Measures]:
        """The runs that collapsed."""
        return [run for run in self.runs if run.collapse is not None]

    def mean_cost(self, axis: str, step: int) -> float | None:
        """Mean over seeds of the cost until a step; None unless all runs know it."""
        values = [run.at(axis, step) for run in self.runs]
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == self.n else None

    def estimate(self, values: list[float | None]) -> Estimate | None:
        """Mean over those runs that have a value; None without any."""
        known = [value for value in values if value is not None]
        return statistics.mean(known) if known else None

    @cached_property
    def step_seconds(self) -> Estimate | None:
        """Mean seconds of a warm step."""
        return self.estimate([run.step_seconds for run in self.timed])

    @cached_property
    def phases(self) -> dict[str, float]:
        """Mean seconds a warm step spends in each phase, over all runs; longest first, `other` last."""
        names = {name for run in self.timed for name in run.phases}
        timed = [run for run in self.timed if run.phases]
        seconds = {name: fmean(run.phases.get(name, 0.0) for run in timed) for name in names}
        return dict(sorted(seconds.items(), key=lambda item: (item[0] == "other", -item[1], item[0])))

    @cached_property
    def memory(self) -> dict[str, dict[str, float]]:
        """GiB by component and what holds it: the largest over steps and runs."""
        found: dict[str, dict[str, float]] = {}
        for run in self.timed:
            for (component, what), value in run.memory.items():
                parts = found.setdefault(component, {})
                parts[what] = max(parts.get(what, 0.0), value)
        return found

    def memory_total(self, kind: str) -> float | None:
        """GiB, counted one way: the components' `peak`s or `static` parts summed, or the `worker`'s allocation."""
        if kind == "worker":
            return max((run.worker_memory for run in self.timed if run.worker_memory is not None), default=None)
        if kind == "peak":
            peaks = [parts.get("peak") for parts in self.memory.values()]
            known = [peak for peak in peaks if peak is not None]
            return sum(known) if known and len(known) == len(peaks) else None
        parts = [value for held in self.memory.values() for what, value in held.items() if what in STATIC]
        return sum(parts) if parts else None

    def band(self, panel: Panel) -> dict[int, Estimate]:
        """A panel's metric over steps, mean and interval over those runs that logged it, at their common steps."""
        if panel not in self._bands:
            self._bands[panel] = self._band(panel)
        return self._bands[panel]

    def _band(self, panel: Panel) -> dict[int, Estimate]:
        curves = [dict(zip(*run.run.series(*panel.keys), strict=True)) for run in self.runs]
        curves = [curve for curve in curves if curve]
        if not curves:
            return {}
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        width = max(1, -(-len(steps) // POINTS))
        bins = [steps[start : start + width] for start in range(0, len(steps), width)]
        rows = [[fmean(curve[step] for step in group) for group in bins] for curve in curves]
        if not bins:
            return {}
        estimates = statistics.means(rows, statistics.RESAMPLES_OF_A_BAND)
        return {group[len(group) // 2]: estimate for group, estimate in zip(bins, estimates, strict=True)}


@dataclass
class Comparison:
    """Methods, GRPO first if it is there, and the accuracy's metrics."""

    keys: list[str]
    methods: list[Method]

    @classmethod
    def of(
        cls, runs: list[Run], accuracy: str | None = None, devices: int | None = None, times: Sequence[Run] = ()
    ) -> Comparison:
        """Measure the runs and group them by label.

        Args:
            runs: what is compared.
            accuracy: its metric; None: verl's.
            devices: of each run; None: from its settings or throughput.
            times: runs that were made to time steps, alone on their machine. Times and memory are then theirs, and the
                wall-clock of a run is its number of steps times the mean step of its method there.

        Raises:
            BadRun: a run without the accuracy; times that leave out a method or its steps' times.
        """
        keys = accuracy_keys(runs, accuracy)
        methods: dict[str, Method] = {}
        for run in runs:
            method = methods.setdefault(run.label, Method(run.label, run.method == BASELINE, []))
            method.runs.append(measure(run, keys, devices))
        for run in times:
            if run.label in methods:
                methods[run.label].timing.append(measure(run, keys, devices))
        for method in methods.values() if times else ():
            if method.step_seconds is None or not method.timing:
                raise BadRun(f"--times has no run of {method.label} with timed steps: add one, or leave --times out.")
            seconds = method.step_seconds.mean
            # A run's own times are its neighbours' too: none are shown beside those that count.
            method.runs = [
                replace(run, seconds={s: s * seconds for s in range(run.last + 1)}, step_seconds=None, phases={})
                for run in method.runs
            ]
        return cls(keys, list(methods.values()))

    @property
    def runs(self) -> list[Measures]:
        """All runs of all methods."""
        return [run for method in self.methods for run in method.runs]

    @property
    def timing_runs(self) -> list[Measures]:
        """The separate runs that times and memory are of."""
        return [run for method in self.methods for run in method.timing]

    @property
    def timed_runs(self) -> list[Measures]:
        """The runs that times and memory are of: those separate ones, or all."""
        return [run for method in self.methods for run in method.timed]

    @property
    def baseline(self) -> Method | None:
        """GRPO; None if no run is."""
        return next((method for method in self.methods if method.is_baseline), None)

    def difference(self, method: Method) -> Estimate | None:
        """Final accuracy minus GRPO's run of the same seed; None for GRPO, and unless the seeds are the same."""
        if self.baseline is None or method.is_baseline:
            return None
        final = {run.run.seed: run.final for run in method.runs}
        return statistics.paired(final, {run.run.seed: run.final for run in self.baseline.runs})

    def time_ratio(self, method: Method) -> Estimate | None:
        """Seconds a step over GRPO's."""
        if self.baseline is None or method.is_baseline:
            return None
        values, base = (
            [run.step_seconds for run in side.timed if run.step_seconds is not None] for side in (method, self.baseline)
        )
        return statistics.ratio(values, base) if values and base else None

    @property
    def memory_kind(self) -> str | None:
        """The first way of counting memory that all methods have: peaks, static parts, or the worker's allocation."""
        kinds = ("peak", "static", "worker")
        return next((k for k in kinds if all(m.memory_total(k) is not None for m in self.methods)), None)

    @cached_property
    def targets(self) -> dict[str, float]:
        """By method: its best mean accuracy. A method that was never better than its start sets no target."""
        found = {}
        for method in self.methods:
            step = method.best_step
            if step is not None and step > method.evaluations[0]:
                found[method.label] = method.accuracy[step].mean
        return found

    @cached_property
    def reaches(self) -> dict[tuple[str, str], Reach]:
        """By (method, target's method): how the one gets to the other's best mean accuracy."""
        found = {}
        for target, accuracy in self.targets.items():
            base = None if self.baseline is None else self._reach(self.baseline, accuracy, None)
            for method in self.methods:
                against = None if method.is_baseline else base
                found[method.label, target] = self._reach(method, accuracy, against)
        return found

    def _reach(self, method: Method, accuracy: float, base: Reach | None) -> Reach:
        """Reach of one method; with the baseline's, ratios to it.

        Per seed: the cost until the end of the first evaluation at or above the target. The ratio is the mean of that
        over the method's seeds, over the mean of it over GRPO's; its interval resamples the seeds of both. It exists
        only when every seed of both reached the target: leaving out those that did not would flatter.
        """
        reached = {run.run.seed: first_reach(run.curve, accuracy) for run in method.runs}
        mean_step = first_reach([(step, value.mean) for step, value in method.accuracy.items()], accuracy)
        costs, ratios, mean_costs, mean_ratios = {}, {}, {}, {}
        for axis in COSTS:
            spent = self._spent(method, reached, axis)
            if spent:
                costs[axis] = statistics.mean(spent)
            other = self._spent(self.baseline, base.reached, axis) if base and self.baseline else []
            if spent and other and (ratio := statistics.ratio(spent, other)) is not None:
                ratios[axis] = ratio
            if mean_step is not None and (cost := method.mean_cost(axis, mean_step)) is not None:
                mean_costs[axis] = cost
                if base and base.mean_costs.get(axis):
                    mean_ratios[axis] = cost / base.mean_costs[axis]
        return Reach(reached, costs, ratios, mean_step, mean_costs, mean_ratios)

    @staticmethod
    def _spent(method: Method, reached: dict[int, int | None], axis: str) -> list[float]:
        """What each seed had spent when it reached; empty unless all reached and know it."""
        steps = {run.run.seed: reached[run.run.seed] for run in method.runs}
        values = [run.at(axis, step) for run in method.runs if (step := steps[run.run.seed]) is not None]
        known = [value for value in values if value is not None]
        return known if len(known) == method.n else []
