"""What a reader has to know about a comparison: where it is not equal, and what it cannot show."""

from __future__ import annotations

import json
from typing import Any

from scripts.compare.comparison import BASELINE_NAME, Comparison
from scripts.compare.measures import PANELS, Measures
from scripts.compare.tables import run_names
from scripts.tables import amount
from verl_ext.generated_tokens import METRIC as GENERATED

# What a method is, and what a seed is: these may differ between the runs of a comparison.
OWN = ("method", "beta", "rm_lr", "variables", "seed", "provenance")

# Overrides that are a run's own name or place.
PLACES = ("trainer.experiment_name", "trainer.default_local_dir", "trainer.project_name", "data.seed")


WHAT_IT_IS = {
    "prime/process_share": "rms of the process part of the returns over that of the outcome part, which is not SPRO's",
    "actor/reward_kl_penalty": "the mean log-ratio of old policy and reference (k1 estimate: it may be below 0)",
    "actor/kl_loss": "an estimate that depends on the run's kl_loss_type",
    "response_length/clip_ratio": "the share of responses as long as the longest of their batch, "
    "which is more than those cut off where none reaches the limit",
}


def overrides(run: Measures) -> dict[str, str]:
    """The exact Hydra overrides of a run by key, without their `+` signs; empty where they were not recorded."""
    given = (run.run.provenance or {}).get("overrides") or []
    pairs = [override.partition("=") for override in given if isinstance(override, str)]
    return {key.lstrip("+~"): value for key, _, value in pairs}


def inequalities(comparison: Comparison) -> list[str]:
    """Settings, other than method, beta and seed, in which the runs differ: the comparison is then not equal."""
    found = []
    runs = comparison.runs
    keys = sorted({key for run in runs for key in run.run.settings} - set(OWN))
    with_settings = [run for run in runs if run.run.settings]
    for key in keys:
        by_value = _by_value(with_settings, lambda run, key=key: run.run.settings.get(key))
        if len(by_value) > 1:
            found.append(f"Runs differ in {key}: {_list(by_value)}.")
    recorded = [run for run in runs if overrides(run)]
    for key in sorted({key for run in recorded for key in overrides(run) if key.startswith("data.")} - set(PLACES)):
        by_value = _by_value(recorded, lambda run, key=key: overrides(run).get(key))
        if len(by_value) > 1:
            found.append(f"Runs differ in {key}: {_list(by_value)}.")
    everything = [*runs, *comparison.timing_runs]
    for key in ("commit", "versions", "hardware", "runs_at_once", "loss"):
        # What was not recorded is no difference; the provenance says where.
        known = [run for run in everything if (run.run.provenance or {}).get(key) is not None]
        by_value = _by_value(known, lambda run, key=key: (run.run.provenance or {}).get(key))
        if len(by_value) > 1:
            names = "; ".join(run_names(group, 2) for group in by_value.values())
            found.append(f"Runs differ in {key.replace('_', ' ')} (see provenance): {names}.")
    if dirty := [run for run in everything if (run.run.provenance or {}).get("dirty")]:
        found.append(f"The code had uncommitted changes: {run_names(dirty)}.")
    seeds = {method.label: tuple(run.run.seed for run in method.runs) for method in comparison.methods}
    if len({frozenset(of) for of in seeds.values()}) > 1:
        text = "; ".join(f"{label}: {', '.join(map(str, of))}" for label, of in seeds.items())
        found.append(f"Methods have different seeds ({text}): no difference by seed is given for those.")
    last = {run.run.name: max(run.run.steps) for run in runs}
    if len(set(last.values())) > 1:
        longest = max(last.values())
        short = [run for run in runs if last[run.run.name] < longest]
        found.append(
            f"Runs end at different steps: the longest at {longest:,}; shorter: "
            + ", ".join(f"{run.run.name} at {last[run.run.name]:,}" for run in short[:6])
            + ("." if len(short) <= 6 else f" and {len(short) - 6} more.")
        )
    for method in comparison.methods:
        dropped = {step for run in method.runs for step, _ in run.curve} - set(method.evaluations)
        if dropped:
            found.append(
                f"{method.label}: not every run was evaluated at step {', '.join(map(str, sorted(dropped)[:8]))}; "
                "its mean curve leaves these steps out."
            )
    if missing := [run for run in runs if run.missing]:
        counts = ", ".join(f"{run.run.name} {run.missing}" for run in missing[:6])
        found.append(f"Steps without a logged time or token count are filled with the run's median step: {counts}.")
    if with_settings and (unknown := [run for run in runs if not run.run.settings]):
        found.append(f"Settings are not known, so not compared: {run_names(unknown)}.")
    if comparison.baseline is None:
        found.append(f"No run is {BASELINE_NAME}: there are no ratios to it.")
    return found


def _by_value(runs: list[Measures], of: Any) -> dict[str, list[Measures]]:
    groups: dict[str, list[Measures]] = {}
    for run in runs:
        groups.setdefault(json.dumps(of(run), sort_keys=True, default=str), []).append(run)
    return groups


def _list(by_value: dict[str, list[Measures]]) -> str:
    return "; ".join(f"{value} in {run_names(runs, 3)}" for value, runs in by_value.items())


def findings(comparison: Comparison) -> list[str]:
    """What the numbers say, in sentences that claim no more than the intervals do."""
    found, alike = [], []
    for method in comparison.methods:
        difference = comparison.difference(method)
        if difference is None:
            continue
        size = f"{amount(abs(difference.mean), 3)} {'above' if difference.mean >= 0 else 'below'}"
        if difference.low is None or difference.high is None:
            found.append(
                f"{method.label} ends {size} {BASELINE_NAME}; one seed, so this says nothing about the next one."
            )
        elif difference.low > 0 or difference.high < 0:
            text = f"{method.label} ends {size} {BASELINE_NAME}, seed by seed; the interval over {difference.n} seeds "
            text += "leaves out 0"
            # The two-sided sign test: with few seeds, a bootstrap interval says more than there is.
            chance = 2 * 0.5**difference.n
            if chance > 0.05:
                text += f" (chance alone makes {difference.n} seeds agree in sign {chance:.0%} of the time)"
            found.append(f"{text}.")
        else:
            alike.append(f"{method.label} ({size}, {difference.n} seeds)")
    if alike:
        found.append(f"Not told apart from {BASELINE_NAME}, the interval holds 0: {'; '.join(alike)}.")
    collapsed = [run for run in comparison.runs if run.collapse is not None]
    if collapsed:
        where = ", ".join(f"{run.run.label}, seed {run.run.seed} (from step {run.collapse})" for run in collapsed)
        found.append(f"Collapsed: {len(collapsed)} of {len(comparison.runs)} runs: {where}. They count in every mean.")
    else:
        found.append(f"None of the {len(comparison.runs)} runs collapsed.")
    times = []
    for method in comparison.methods:
        ratio = comparison.time_ratio(method)
        if ratio is not None and ratio.low is not None and ratio.high is not None and (ratio.low > 1 or ratio.high < 1):
            times.append(f"{method.label} {abs(ratio.mean - 1):.0%} {'more' if ratio.mean > 1 else 'less'}")
    if times:
        alone = all((run.run.provenance or {}).get("runs_at_once") == 1 for run in comparison.timed_runs)
        doubt = "" if alone else " Runs may have shared the machine: this may be the neighbours' doing."
        found.append(f"Time of a step against {BASELINE_NAME}'s: {'; '.join(times)}.{doubt}")
    return found


def _of_times(comparison: Comparison) -> list[str]:
    """What the times are, and who else was on the machine."""
    timed = comparison.timed_runs
    if comparison.timing_runs:
        steps = sorted({run.last for run in timed})
        found = [
            f"Times and memory are those of {len(timed)} separate runs of {' and '.join(map(str, steps))} steps "
            f"({run_names(timed, 9)}). Wall-clock and device-hours are a run's steps times its method's mean step "
            "there, as if all its steps were like these; start-up and evaluation are not in them."
        ]
    else:
        found = [
            "Wall-clock and device-hours are the sum of timing_s/step, which saves checkpoints but, in verl's V1 "
            "trainer, does not evaluate; start-up is left out too. Runs that shared a machine slow each other down."
        ]
    if not any((run.run.provenance or {}).get("runs_at_once") for run in timed):
        found.append("How many runs shared the machine was not recorded: differences in time may be the neighbours'.")
    elif any((run.run.provenance or {}).get("runs_at_once", 1) != 1 for run in timed):
        found.append("Some runs shared their machine with others (see provenance): their times are not their own.")
    return found


def limits(comparison: Comparison) -> list[str]:
    """What this report cannot show."""
    found = []
    counts = sorted({method.n for method in comparison.methods})
    if counts[0] == 1:
        single = "; ".join(method.label for method in comparison.methods if method.n == 1)
        found.append(f"One seed only, so no interval: {single}.")
    if counts[-1] > 1:
        few = " and ".join(str(count) for count in counts if count > 1)
        found.append(
            f"A 95 % bootstrap interval of {few} seeds is narrow and optimistic"
            + (": with three it is simply their range." if 3 in counts else ": it knows only the seeds that were run.")
        )
    found += _of_times(comparison)
    if all(GENERATED in run.run.logged() for run in comparison.runs):
        found.append("Generated tokens are all that were sampled, those that no update saw included.")
    else:
        found.append(
            f"Where {GENERATED} was not logged, generated tokens are response_length/mean times the number of "
            "responses that were trained on: what such a run sampled and threw away is in its time, not in its tokens."
        )
    origins = {run.devices_from for run in comparison.runs}
    if "assumed" in origins:
        assumed = [run for run in comparison.runs if run.devices_from == "assumed"]
        found.append(f"One device was assumed, nothing says how many (use --devices): {run_names(assumed)}.")
    if "throughput" in origins:
        found.append(
            "Where settings give no number of devices, it follows from perf/throughput (tokens a second and device)."
        )
    for panel in PANELS:
        without = [method.label for method in comparison.methods if not method.band(panel)]
        used = {key for run in comparison.runs if (key := run.run.first_logged(*panel.keys))}
        reason = f" ({panel.note})" if panel.note else ""
        if without:
            found.append(f"{panel.title} was not logged by {'; '.join(without)}{reason}.")
        found += [f"{panel.title} is {key}: {WHAT_IT_IS[key]}." for key in sorted(used) if key in WHAT_IT_IS]
    if not any(method.memory for method in comparison.methods):
        found.append("Memory by component was not logged.")
    heldout = sorted({int(n) for run in comparison.runs if (n := run.run.settings.get("heldout_n"))})
    if heldout:
        sizes = ", ".join(f"{n:,}" for n in heldout)
        found.append(
            f"Each evaluation is on {sizes} held-out problems: the sampling error of one accuracy is up to "
            f"{0.5 / heldout[0] ** 0.5:.3f} (one standard error), and is part of the spread between seeds."
        )
    found.append("The best accuracy of several evaluations is biased upwards; the final one is not.")
    return found
