"""Every shipped launcher passes the doctor, with each method that it is for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import McoreActorConfig, McoreEngineConfig, McoreOptimizerConfig

from examples.arithmetic.make_model import make_model, make_tokenizer
from recipe.prime_v1.reward_model import COMPANION
from scripts.doctor.examine import examine
from scripts.doctor.findings import Status
from scripts.doctor.hardware import GPUS
from scripts.doctor.launcher import overrides_of
from scripts.doctor.report import Report
from tests.support import ROOT, composed

LAUNCHERS = sorted(ROOT.glob("recipe/*/run_*.sh"))

LAST_LINE = '${SPRO_LAUNCH:-python3 -m recipe.spro.main_spro} "${ARGS[@]}" "$@"'

# What the issue of these launchers names, by recipe.
NAMES = {
    "run_eurus2_7b_8gpu",
    "run_eurus2_7b_lora_1gpu",
    "run_qwen2_5_0_5b_1gpu",
    "run_qwen2_5_1_5b_1gpu",
    "run_qwen2_5_32b_4nodes",
    "run_qwen2_5_math_7b_8gpu",
    "run_r1_distill_llama_70b_16nodes",
}


def cases() -> list[tuple[Path, str]]:
    """Launchers of SPRO with GRPO too; PRIME's with PRIME."""
    of_spro = [(path, method) for path in LAUNCHERS if path.parent.name == "spro" for method in ("spro", "grpo")]
    return of_spro + [(path, "prime") for path in LAUNCHERS if path.parent.name == "prime_v1"]


def examined(path: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Report:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return examine(str(path), overrides_of(path, overrides), GPUS["h100-80gb"], machine=False)


def wrong(report: Report) -> list[str]:
    return [f"{finding.check}: {finding.detail}" for finding in report.findings if finding.status is Status.WRONG]


@pytest.mark.parametrize(("path", "method"), cases(), ids=lambda value: getattr(value, "stem", value))
def test_nothing_is_wrong_with_it(path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METHOD", method)
    report = examined(path, monkeypatch)
    assert wrong(report) == []
    assert report.estimates is not None, "the table of shapes does not know the model"


@pytest.mark.parametrize("recipe", ["spro", "prime_v1"])
def test_each_recipe_has_them_all(recipe: str) -> None:
    assert {path.stem for path in LAUNCHERS if path.parent.name == recipe} == NAMES


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_its_form(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == LAST_LINE
    assert path.stat().st_mode & 0o111, "not executable"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_primes_launcher_differs_where_prime_does(name: str) -> None:
    def user_block(recipe: str) -> list[tuple[str, str]]:
        text = (ROOT / "recipe" / recipe / f"{name}.sh").read_text()
        pairs = re.findall(r"^(\w+)=\$\{\1:-(.*)\}$", text, re.MULTILINE)
        return [(key, value) for key, value in pairs if key not in ("METHOD", "RESPONSES", "RM_LR")]

    assert user_block("prime_v1") == user_block("spro")
    assert len(user_block("spro")) > 10


def test_what_is_behind_a_launcher_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "recipe" / "spro" / "run_qwen2_5_0_5b_1gpu.sh"
    monkeypatch.setenv("MAX_RESPONSE", "2048")
    overrides = overrides_of(path, ["actor_rollout_ref.rollout.n=6"])
    assert overrides[-1] == "actor_rollout_ref.rollout.n=6"
    assert "data.max_response_length=2048" in overrides
    assert "actor_rollout_ref.rollout.max_model_len=2560" in overrides


def test_the_engines_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run_qwen2_5_32b_4nodes", "run_r1_distill_llama_70b_16nodes"):
        assert "model_engine=megatron" in overrides_of(ROOT / "recipe" / "spro" / f"{name}.sh")
        assert "model_engine=megatron" in overrides_of(ROOT / "recipe" / "prime_v1" / f"{name}.sh")


@pytest.mark.parametrize("recipe", ["spro", "prime_v1"])
@pytest.mark.parametrize("name", ["run_qwen2_5_32b_4nodes", "run_r1_distill_llama_70b_16nodes"])
def test_verls_own_settings_take_what_they_say_of_megatron(
    recipe: str, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of actor, reference and reward model; with a small model in place of the large one, which is not here."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(tokenizer).save_pretrained(folder)
    overrides = overrides_of(ROOT / "recipe" / recipe / f"{name}.sh", [f"actor_rollout_ref.model.path={folder}"])
    config = composed(*overrides)
    for role in ("actor", "ref"):
        given = omega_conf_to_dataclass(config.actor_rollout_ref[role].megatron)
        assert isinstance(given, McoreEngineConfig)
        assert given.tensor_model_parallel_size == 8
        assert given.pipeline_model_parallel_size == (2 if "32b" in name else 4)
        assert given.override_transformer_config["recompute_granularity"] == "full"
        assert given.param_offload
        assert given.forward_only is (role == "ref")
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert isinstance(actor, McoreActorConfig)
    assert isinstance(actor.optim, McoreOptimizerConfig)
    if recipe == "prime_v1":
        worker = COMPANION.worker_config(config)
        assert worker.engine_config.tensor_model_parallel_size == 8
        assert (worker.optimizer_config.lr, worker.optimizer_config.lr_decay_style) == (1e-6, "constant")
        assert worker.optimizer_config.clip_grad == 10.0


@pytest.mark.parametrize("method", ["grpo", "spro", "prime"])
def test_what_has_run_passes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact overrides of the kept runs, on the stack without an accelerator; their data and model are not kept."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    kept = json.loads((ROOT / "docs" / "runs" / "times" / f"{method}-seed0.json").read_text())
    report = examine(method, kept["provenance"]["overrides"], GPUS["h100-80gb"], machine=False)
    assert wrong(report) == []


def test_fsdps_settings_of_primes_reward_model_are_told_with_megatron(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "recipe" / "prime_v1" / "run_qwen2_5_32b_4nodes.sh"
    report = examined(path, monkeypatch, "++algorithm.prime.fsdp_config.param_offload=true")
    assert any("algorithm.prime.fsdp_config={'param_offload': True}" in text for text in wrong(report))
