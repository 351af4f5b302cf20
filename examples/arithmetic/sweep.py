"""The sweep behind the example's settings: learning rate for GRPO, then beta for SPRO, over seeds.

    SWEEP=1 bash examples/arithmetic/run.sh                # everything; skips what is done
    python -m examples.arithmetic.sweep --report-only      # tables and figure from the kept runs

First GRPO at several learning rates (seed 0); the best one is used for the rest. Then GRPO and SPRO
with each beta at every seed. Finished runs are kept under ``docs/runs`` as compressed JSONL, and
are never trained again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from examples.arithmetic import summary

LEARNING_RATES = ("5e-5", "1e-4", "2e-4")
BETAS = ("0.001", "0.003", "0.01", "0.03", "0.1")
SEEDS = (0, 1, 2)
KEPT = Path("docs/runs/arithmetic")

STEPS = 80
HELDOUT_N = 1000

# The demo's beta: the largest one whose mean over the seeds is at most this far below GRPO's.
TOLERANCE = 0.02

# Collapse: held-out accuracy below half of its best so far in two consecutive evaluations, not recovered by the end.
_COLLAPSE_RATIO, _COLLAPSE_EVALUATIONS = 0.5, 2


@dataclass(frozen=True)
class Run:
    """One cell of the sweep."""

    method: str
    lr: str
    seed: int
    beta: str | None = None

    @property
    def name(self) -> str:
        """As `run.sh` names the run's folder."""
        beta = f"-beta{self.beta}" if self.beta is not None else ""
        return f"{self.method}{beta}-lr{self.lr}-seed{self.seed}"


@dataclass(frozen=True)
class Result:
    """What the tables need of one run."""

    run: Run
    before: float
    after: float
    curve: list[tuple[int, float]]
    share: float | None
    collapsed: bool


def collapsed(curve: list[tuple[int, float]]) -> bool:
    """Whether a curve of (step, held-out greedy accuracy) ends in a collapse."""
    best, below = 0.0, 0
    for _, accuracy in curve:
        best = max(best, accuracy)
        below = below + 1 if accuracy < _COLLAPSE_RATIO * best else 0
    return below >= _COLLAPSE_EVALUATIONS


def read_result(run: Run, path: Path) -> Result:
    """Read one kept run (gzipped metrics JSONL).

    Raises:
        ValueError: the run has no evaluation.
    """
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    metrics = summary.Run.from_rows(run.name, {}, rows)
    curve = list(zip(*metrics.series(*summary.ACCURACY_KEYS), strict=True))
    if not curve:
        raise ValueError(f"{path} holds no held-out accuracy ({summary.ACCURACY_KEYS[0]})")
    return Result(
        run=run,
        before=curve[0][1],
        after=curve[-1][1],
        curve=curve,
        share=metrics.warm_median(summary.SHARE),
        collapsed=collapsed(curve),
    )


def check_kept(run: Run, kept: Path, steps: int) -> None:
    """Raise ValueError unless a kept run was made as this sweep would make it."""
    settings = json.loads(kept.with_name(kept.name.replace(".jsonl.gz", ".json")).read_text())
    wanted = {
        "method": run.method,
        "lr": float(run.lr),
        "seed": run.seed,
        "steps": steps,
        "heldout_n": HELDOUT_N,
        "beta": None if run.beta is None else float(run.beta),
    }
    wrong = {key: settings.get(key) for key, value in wanted.items() if settings.get(key) != value}
    if wrong:
        raise ValueError(f"{kept} was made with {wrong}, this sweep wants {wanted}: move it away to train it anew.")


def train(run: Run, root: Path, steps: int) -> Path:
    """Train one run unless it is kept already; returns its kept metrics.

    Raises:
        subprocess.CalledProcessError: the training failed; its message is on stderr.
    """
    kept = KEPT / f"{run.name}.jsonl.gz"
    if kept.exists():
        check_kept(run, kept, steps)
        return kept
    # A run of the sweep takes nothing from the settings of a run.
    own = ("SWEEP", "OUT", "FRESH", "RANKS", "TEST_FREQ", "SAVE_FREQ", "BETA")
    environment = {key: value for key, value in os.environ.items() if key not in own}
    environment |= {
        "METHOD": run.method,
        "LR": run.lr,
        "SEED": str(run.seed),
        "STEPS": str(steps),
        "HELDOUT_N": str(HELDOUT_N),
        "ROOT": str(root),
    }
    if run.beta is not None:
        environment["BETA"] = run.beta
    subprocess.run(["bash", "examples/arithmetic/run.sh"], env=environment, check=True)
    keep(root / run.name, kept)
    return kept


def keep(run_dir: Path, kept: Path) -> None:
    """Compress a run's metrics to ``kept``, byte for byte the same each time, and add its settings."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    temporary = kept.with_suffix(".tmp")
    with temporary.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        file.write((run_dir / "metrics.jsonl").read_bytes())
    os.replace(temporary, kept)
    shutil.copyfile(run_dir / "run.json", kept.with_name(kept.name.replace(".jsonl.gz", ".json")))


def choose_beta(results: dict[str, list[Result]], grpo: list[Result]) -> str | None:
    """The largest beta whose mean final accuracy is within `TOLERANCE` of GRPO's or above.

    Over all of `SEEDS`, for GRPO as well, and none of them collapsed; None if no beta is.
    """
    if len(grpo) < len(SEEDS):
        return None
    reference = statistics.mean(result.after for result in grpo)
    fine = [
        beta
        for beta, of_beta in results.items()
        if len(of_beta) == len(SEEDS)
        and not any(result.collapsed for result in of_beta)
        and statistics.mean(result.after for result in of_beta) >= reference - TOLERANCE
    ]
    return max(fine, key=float) if fine else None


def table(title: str, rows: list[tuple[str, list[Result]]]) -> str:
    """Markdown: one line per setting, accuracies by seed and their mean."""
    lines = [
        f"| {title} | before | after, by seed | mean gain | process share | collapsed |",
        "|---|---|---|---|---|---|",
    ]
    for label, results in rows:
        before = ", ".join(f"{result.before:.3f}" for result in results)
        after = ", ".join(f"{result.after:.3f}" for result in results)
        gain = statistics.mean(result.after - result.before for result in results)
        shares = [result.share for result in results if result.share is not None]
        share = f"{statistics.median(shares):.4f}" if shares else "-"
        if shares and statistics.median(shares) < summary.GRPO_BELOW:
            share += " (shows GRPO, not SPRO)"
        gone = f"{sum(result.collapsed for result in results)} of {len(results)}"
        lines.append(f"| {label} | {before} | {after} | {100 * gain:+.1f} points | {share} | {gone} |")
    return "\n".join(lines)


def report(root: Path, lr: str) -> str:
    """The tables of every kept run, and the beta that the rule chooses."""

    def kept(method: str, rate: str, beta: str | None = None) -> list[Result]:
        runs = [Run(method, rate, seed, beta) for seed in SEEDS]
        paths = [(run, KEPT / f"{run.name}.jsonl.gz") for run in runs]
        return [read_result(run, path) for run, path in paths if path.exists()]

    rates = [(f"GRPO, learning rate {rate}", kept("grpo", rate)[:1]) for rate in LEARNING_RATES]
    grpo = kept("grpo", lr)
    by_beta = {beta: kept("spro", lr, beta) for beta in BETAS}
    rows = [("GRPO", grpo), *((f"SPRO, beta {beta}", results) for beta, results in by_beta.items())]
    text = "\n\n".join(
        [
            table("seed 0", [row for row in rates if row[1]]),
            table(f"learning rate {lr}", [row for row in rows if row[1]]),
            f"Largest beta within {100 * TOLERANCE:.0f} points of GRPO or above: "
            f"{choose_beta(by_beta, grpo) if grpo else None}",
        ]
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / "sweep.md").write_text(text + "\n")
    plot(root / "sweep.png", [row for row in rows if row[1]])
    return text


def plot(path: Path, rows: list[tuple[str, list[Result]]]) -> None:
    """Held-out accuracy over steps, one panel per setting, one line per seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(rows), figsize=(2.6 * len(rows), 2.8), sharey=True, squeeze=False)
    for axis, (label, results) in zip(axes[0], rows, strict=True):
        for result, colour in zip(results, ("#0072B2", "#D55E00", "#009E73"), strict=False):
            steps, accuracy = zip(*result.curve, strict=True)
            axis.plot(steps, accuracy, marker="o", markersize=3, color=colour, label=f"seed {result.run.seed}")
        axis.set_title(label, fontsize=9)
        axis.set_xlabel("step")
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("held-out accuracy, greedy")
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Train what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, default=Path("outputs/arithmetic"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--lr", help="learning rate for the betas; default: GRPO's best at seed 0")
    parser.add_argument("--betas", nargs="*", default=list(BETAS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--report-only", action="store_true")
    arguments = parser.parse_args()

    def final(run: Run) -> float:
        return read_result(run, train(run, arguments.root, arguments.steps)).after

    lr = arguments.lr
    if lr is None:
        first = [Run("grpo", rate, SEEDS[0]) for rate in LEARNING_RATES]
        if arguments.report_only:
            first = [run for run in first if (KEPT / f"{run.name}.jsonl.gz").exists()]
        if not first:
            sys.exit(f"no kept run under {KEPT}: leave out --report-only to train them")
        lr = max(first, key=final).lr
    if not arguments.report_only:
        for seed in arguments.seeds:
            train(Run("grpo", lr, seed), arguments.root, arguments.steps)
            for beta in arguments.betas:
                train(Run("spro", lr, seed, beta), arguments.root, arguments.steps)
    print(report(arguments.root, lr))
    print(
        json.dumps({"lr": lr, "tables": str(arguments.root / "sweep.md"), "figure": str(arguments.root / "sweep.png")})
    )


if __name__ == "__main__":
    main()
