"""The configuration of an evaluation: verl's own, composed as for a training, with what an evaluation sets.

Overrides of the command line go behind ours and win.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from scripts.doctor.composing import compose
from scripts.evaluate.errors import BadInput
from scripts.evaluate.problems import Problems
from scripts.evaluate.subject import Subject
from verl_ext import config_checks, cpu
from verl_ext.preflight import count_tokens
from verl_ext.rewards.settings import MANAGER, is_ours

# Of a response, where the model's context would allow more.
MAX_TOKENS = 8192

_ROLLOUT = "actor_rollout_ref.rollout"

# What decides the responses, beside model, data and sampling.
_ROLLOUT_KEYS = (
    *("name", "response_length", "dtype", "quantization", "engine_kwargs", "multi_turn"),
    *("agent.default_agent_loop", "agent.agent_loop_config_path"),
)
_DATA_KEYS = ("apply_chat_template_kwargs", "custom_cls", "prompt_key")


@dataclass(frozen=True)
class Sampling:
    """What the command line says about sampling.

    Attributes:
        samples: responses a problem; 0: greedy only.
        greedy: one greedy response a problem too.
        max_tokens: of a response; None: what the context leaves, at most `MAX_TOKENS`.
    """

    samples: int = 4
    greedy: bool = True
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    seed: int = 0


def configure(subject: Subject, sets: Sequence[Problems], sampling: Sampling, overrides: Sequence[str]) -> Any:
    """verl's whole configuration, checked as far as that is possible before Ray starts.

    Raises:
        BadInput: an override that verl does not know; lengths that the model's context does not hold.
        ConfigError: from the checks that every run passes.
    """
    config = _composed([*_ours(subject, sets, sampling, on_cpu=cpu.is_asked_for(overrides)), *overrides])
    if not is_ours(config):
        raise BadInput(
            f"reward.reward_manager.name={config.reward.reward_manager.name}: only {MANAGER} tells kinds of verdicts "
            "apart. Leave the override out; a grader of your own is reward.custom_reward_function.path=FILE"
        )
    if sampling.samples > 1 and config.actor_rollout_ref.rollout.temperature == 0:
        raise BadInput(
            f"--temperature 0: the {sampling.samples} responses of --samples would all be the same. Give another "
            "temperature, or --samples 0: the greedy response is asked for anyway."
        )
    _check_devices(config)
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    _fit_lengths(config, subject, sets, sampling.max_tokens, given)
    # Every problem that is asked fits by now; rows beyond --limit need not.
    config_checks.run_checks(OmegaConf.merge(config, {"data": {"filter_overlong_prompts": True}}))
    return config


def _ours(subject: Subject, sets: Sequence[Problems], sampling: Sampling, *, on_cpu: bool) -> list[str]:
    import torch

    paths = ",".join(f"'{each.path.resolve()}'" for each in sets)
    found = [
        "algorithm.adv_estimator=grpo",
        "algorithm.use_kl_in_reward=false",
        f"data.train_files=[{paths}]",
        f"data.val_files=[{paths}]",
        "data.train_batch_size=1",
        # A problem that is left out is one that nobody counts: lengths are made to fit, or refused.
        "data.filter_overlong_prompts=false",
        f"actor_rollout_ref.model.path='{subject.texts.resolve()}'",
        f"{_ROLLOUT}.load_format=auto",
        f"{_ROLLOUT}.n=1",
        f"{_ROLLOUT}.temperature={sampling.temperature}",
        f"{_ROLLOUT}.top_p={sampling.top_p}",
        f"{_ROLLOUT}.seed={sampling.seed}",
        # Of the greedy pass, which verl takes for a validation
        f"{_ROLLOUT}.val_kwargs.temperature=0",
        f"{_ROLLOUT}.val_kwargs.top_p=1.0",
        f"{_ROLLOUT}.val_kwargs.top_k=-1",
        f"{_ROLLOUT}.nnodes=${{trainer.nnodes}}",
        f"{_ROLLOUT}.calculate_log_probs=false",
        # Nothing is trained beside it
        f"{_ROLLOUT}.free_cache_engine=false",
        f"{_ROLLOUT}.enable_sleep_mode=false",
        "reward.reward_manager.name=spro",
        # Here the workers' messages would bury the progress; Ray's folder has them
        "+ray_kwargs.ray_init.log_to_driver=false",
    ]
    if not on_cpu:
        found.append(f"{_ROLLOUT}.gpu_memory_utilization=0.85")
        if gpus := torch.cuda.device_count():
            found.append(f"trainer.n_gpus_per_node={gpus}")
    return found


def _composed(overrides: Sequence[str]) -> Any:
    config, findings = compose(overrides)
    if config is None or findings:
        raise BadInput(findings[0].detail)
    return config


def devices_of_a_server(config: Any) -> int:
    """How many devices one vLLM server takes."""
    rollout = config.actor_rollout_ref.rollout
    return rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size


def _check_devices(config: Any) -> None:
    """As far as the configuration tells; what the cluster has is known when Ray runs."""
    devices = config.trainer.nnodes * config.trainer.n_gpus_per_node
    asked = f"trainer.nnodes={config.trainer.nnodes} x trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}"
    ours = OmegaConf.select(config, "ray_kwargs.ray_init.num_gpus")
    if ours is not None and devices > ours:
        raise BadInput(f"{asked}: Ray is started with ray_kwargs.ray_init.num_gpus={ours}. Give it {devices}.")
    if (size := devices_of_a_server(config)) > devices:
        raise BadInput(
            f"{_ROLLOUT}.tensor_model_parallel_size x data_parallel_size x pipeline_model_parallel_size = {size}: "
            f"{asked} is not one server. Raise trainer.n_gpus_per_node, or lower the former."
        )


def _fit_lengths(
    config: Any, subject: Subject, sets: Sequence[Problems], max_tokens: int | None, given: set[str]
) -> None:
    """Make every prompt fit, and give responses what the context leaves; ``given`` keys stay as they are."""
    from transformers import AutoConfig
    from verl.utils import hf_tokenizer
    from verl.workers.rollout.utils import get_max_position_embeddings

    trusted = config.actor_rollout_ref.model.get("trust_remote_code", False)
    tokenizer = hf_tokenizer(str(subject.texts), trust_remote_code=trusted)
    if template := config.actor_rollout_ref.model.get("custom_chat_template", None):
        tokenizer.chat_template = template
    options = OmegaConf.to_container(config.data.get("apply_chat_template_kwargs", None) or OmegaConf.create({}))
    longest, where = 0, ""
    for each in sets:
        for row, prompt in enumerate(each.prompts):
            tokens = count_tokens(tokenizer, prompt, options)
            if tokens == 0:
                raise BadInput(
                    f"DATA {each.path}, row {row}: the prompt cannot be written with the chat template of "
                    f"{subject.source}. Give a template: actor_rollout_ref.model.custom_chat_template=..."
                )
            if tokens > longest:
                longest, where = tokens, f"row {row} of {each.path}"
    context = get_max_position_embeddings(AutoConfig.from_pretrained(subject.texts, trust_remote_code=trusted))
    room = context - longest
    wanted = max_tokens or min(MAX_TOKENS, room)
    if "data.max_response_length" in given:
        wanted = config.data.max_response_length
    if room < 1 or wanted > room:
        raise BadInput(
            f"--max-tokens {wanted}: the model takes {context} tokens, and {where} has {longest}. "
            + (f"Give --max-tokens {room} at most." if room > 0 else "Leave out such problems.")
        )
    if "data.max_prompt_length" in given and config.data.max_prompt_length < longest:
        raise BadInput(
            f"data.max_prompt_length={config.data.max_prompt_length}: {where} has {longest} tokens. Leave the "
            "override out: it is set to the longest prompt."
        )
    fitting = {
        "data.max_prompt_length": longest,
        "data.max_response_length": wanted,
        f"{_ROLLOUT}.max_model_len": longest + wanted,
    }
    for key, value in fitting.items():
        if key not in given:
            OmegaConf.update(config, key, value)


def key_of(
    config: Any, subject: Subject, problems: Problems, *, greedy: bool, samples: int, exported: dict[str, Any]
) -> dict[str, Any]:
    """All that decides the responses to one set and their verdicts, for `Store`.

    The longest prompt is not part of it: it depends on the other sets that are asked in the same command.

    Args:
        exported: how a model is made of a checkpoint: dtype and base.
    """
    rollout = config.actor_rollout_ref.rollout
    sampled = {key: rollout[key] for key in ("temperature", "top_p", "top_k")}
    decides = {key: OmegaConf.select(rollout, key) for key in _ROLLOUT_KEYS}
    decides |= {f"data.{key}": config.data.get(key) for key in _DATA_KEYS}
    decides["custom_chat_template"] = config.actor_rollout_ref.model.get("custom_chat_template", None)
    decides["reward_kwargs"] = config.reward.get("reward_kwargs", None)
    decides["reward_function"] = config.reward.custom_reward_function.path
    return {
        "model": subject.digest,
        "exported": exported if subject.is_checkpoint else None,
        "data": problems.digest,
        "problems": len(problems),
        "samples": samples,
        "sampling": {"temperature": 0} if greedy else {**sampled, "seed": rollout.seed},
        "settings": OmegaConf.to_container(OmegaConf.create(decides), resolve=True),
    }
