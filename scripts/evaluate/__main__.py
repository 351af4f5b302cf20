"""Evaluate a model or a checkpoint with verl's vLLM servers: greedy, avg@k and pass@k, graded by our verifier.

    python -m scripts.evaluate MODEL DATA... [OVERRIDES...]
    python -m scripts.evaluate outputs/arithmetic/spro/checkpoints outputs/data/math500.parquet --samples 8
    python -m scripts.evaluate RUN/checkpoints/global_step_80 --export MODEL_FOLDER

MODEL is a folder in Hugging Face form, a name on the hub, or a checkpoint of verl's FSDP engine as it lies there
(global_step_N, LoRA or not; a folder of checkpoints is its latest). DATA are files that scripts.data prepares, or its
folder. OVERRIDES are verl's, such as +stack=cpu, trainer.n_gpus_per_node=4,
actor_rollout_ref.rollout.tensor_model_parallel_size=2. Interrupted, the same command goes on where it stopped.

Exit 0: done; 1: it failed; 2: the command cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.evaluate.errors import BadInput
from scripts.evaluate.export import DTYPES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model's folder or name on the hub, or a checkpoint's folder")
    add("words", nargs="*", metavar="DATA or OVERRIDE", help="parquet files, folders of scripts.data; key=value")
    add("--samples", type=int, default=4, metavar="K", help="for avg@k and pass@k; 0: greedy only (%(default)s)")
    add("--no-greedy", dest="greedy", action="store_false", help="no greedy response")
    add("--pass-at", metavar="K,...", help="the k of pass@k (powers of two up to --samples, and --samples)")
    add("--temperature", type=float, default=1.0, help="of the samples (%(default)s)")
    add("--top-p", type=float, default=1.0, help="of the samples (%(default)s)")
    add("--max-tokens", type=int, metavar="N", help="of a response (what the context leaves, at most 8192)")
    add("--seed", type=int, default=0, help="of the servers' sampling (%(default)s)")
    add("--limit", type=int, metavar="N", help="only the first N problems of each set")
    add("--out", type=Path, metavar="DIR", help="(`evaluation` in the checkpoint's run, else outputs/evaluation)")
    add("--label", help="what the model is called in tables, and the name of the files (its folder's name)")
    add(
        "--chunk", type=int, default=32, metavar="N", help="problems whose responses are written together (%(default)s)"
    )
    add("--force", action="store_true", help="ask again what is there already")
    add("--export", type=Path, metavar="DIR", help="write the checkpoint as a model in Hugging Face form, LoRA merged")
    add("--dtype", choices=DTYPES, help="of the exported weights (the checkpoint's own)")
    add("--base", metavar="MODEL", help="of a checkpoint that holds an adapter only")
    return parser


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, checked as far as it goes by itself; ends the process with status 2 where it is wrong."""
    parser = _parser()
    given = parser.parse_intermixed_args(arguments)
    given.data = [word for word in given.words if "=" not in word or Path(word).exists()]
    given.overrides = [word for word in given.words if word not in given.data]
    for option, lowest in (("samples", 0), ("max_tokens", 1), ("limit", 1), ("chunk", 1), ("seed", 0)):
        value = getattr(given, option)
        if value is not None and value < lowest:
            parser.error(f"--{option.replace('_', '-')} must be at least {lowest}, got {value}")
    if given.temperature < 0:
        parser.error(f"--temperature must be at least 0, got {given.temperature}")
    if not 0 < given.top_p <= 1:
        parser.error(f"--top-p must be above 0 and at most 1, got {given.top_p}")
    if not given.greedy and not given.samples:
        parser.error("--no-greedy with --samples 0 asks for nothing: leave one of them out")
    if not given.data and not given.export:
        parser.error("nothing to evaluate on: give DATA, such as outputs/data/math500.parquet")
    if given.label and "/" in given.label:
        parser.error(f"--label {given.label}: is the name of a file, without a slash")
    given.ks = _ks(parser, given.pass_at, given.samples)
    return given


def _ks(parser: argparse.ArgumentParser, asked: str | None, samples: int) -> tuple[int, ...]:
    if asked is None:
        return tuple(sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples}))
    try:
        ks = tuple(sorted({int(k) for k in asked.split(",")}))
    except ValueError:
        parser.error(f"--pass-at {asked}: whole numbers with commas between them, such as 1,8,64")
    if not 1 <= ks[0] <= ks[-1] <= samples:
        parser.error(f"--pass-at {asked}: needs 1 <= k <= --samples {samples}; raise --samples")
    return ks


def main(arguments: list[str]) -> int:
    given = parse(arguments)
    # The stack and the plugins are asked for before anything imports verl.
    from recipe.spro.main_spro import prepare_environment

    try:
        prepare_environment(given.overrides)
    except SystemExit as refused:
        print(f"evaluate: {refused}", file=sys.stderr)
        return 2
    from scripts.evaluate.evaluate import evaluate
    from verl_ext.config_checks import ConfigError

    try:
        return evaluate(given)
    except (BadInput, ConfigError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("evaluate: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


# Workers are spawned: they import this file.
if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
