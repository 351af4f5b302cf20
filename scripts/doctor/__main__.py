"""Check a run before it is started, and estimate its memory and step time. Nothing is started.

python -m scripts.doctor recipe/spro/run_eurus2_7b_8gpu.sh [OVERRIDES...]
METHOD=grpo python -m scripts.doctor recipe/spro/run_eurus2_7b_8gpu.sh --gpu h200
python -m scripts.doctor data.train_files=... actor_rollout_ref.model.path=... [OVERRIDES...]

Exit 0: nothing wrong; 1: something is; 2: the command cannot be used. What cannot be checked on this machine (no GPU,
no data, no model) is listed and fails only with --strict.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from scripts.doctor import hardware
from scripts.doctor.findings import UsageError, exit_status, note
from scripts.doctor.launcher import overrides_of
from verl_ext import cpu


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="+", help="a launcher and overrides for it, or overrides only")
    parser.add_argument(
        "--gpu", help=f"the GPU that it is for: {', '.join(hardware.GPUS)} (here, or {hardware.DEFAULT})"
    )
    parser.add_argument("--response-tokens", type=float, help="expected mean of a response (0.35 of the limit)")
    parser.add_argument("--strict", action="store_true", help="what could not be checked fails too")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    return parser


def what_to_run(words: list[str]) -> tuple[str, list[str]]:
    """A name for the report, and the overrides.

    Raises:
        UsageError: neither a launcher nor overrides.
    """
    first, *rest = words
    if first.endswith(".sh"):
        path = Path(first)
        if not path.is_file():
            raise UsageError(f"{first}: there is no such launcher")
        return first, overrides_of(path, rest)
    if bad := [word for word in words if "=" not in word and not word.startswith("~")]:
        raise UsageError(f"{bad[0]}: neither a launcher (*.sh) nor an override (key=value)")
    return "overrides", words


def main(arguments: list[str]) -> int:
    options = _parser().parse_intermixed_args(arguments)
    try:
        name, overrides = what_to_run(options.run)
        gpu = hardware.gpu(options.gpu)
        # After the usage is clear: it imports verl.
        from scripts.doctor.examine import examine

        report = examine(name, overrides, gpu, mean_response=options.response_tokens)
        if options.gpu is None and hardware.here() is None and not cpu.is_asked_for(overrides):
            assumed = note("memory", f"no GPU is known here: --gpu {hardware.DEFAULT} is assumed")
            report = replace(report, findings=[*report.findings, assumed])
    except UsageError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.as_json(), indent=1) if options.json else report.text())
    return exit_status(report.findings, strict=options.strict)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
