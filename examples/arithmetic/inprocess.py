"""The worked example without Ray, vLLM and FSDP: a small loop in this process, for studies that need hundreds of runs.

    METHOD=spro BETA=0.1 SEED=3 OUT=outputs/inprocess/mine python -m examples.arithmetic.inprocess [hydra overrides]
    python -m examples.arithmetic.inprocess --cells cells.json --jobs 2

What is the product's: the composed configuration and its checks, the base model and the data, the verifiers, verl's
`compute_advantage` with our estimators, its policy and KL losses, its optimizer and its metrics. What stands in:
rollout (batched sampling with a cache), the forward passes and the update, which are plain torch in float32. A run of
80 steps takes half a minute instead of minutes. It is evidence about the mathematics, never about the system; what was
checked against runs through verl is in docs/studies.md.

A run is told by the variables of `run.sh` (METHOD, BETA, LR, RM_LR, SEED, STEPS, HELDOUT_N, TEST_FREQ, OUT, ROOT) and
leaves what it leaves, ``OUT/metrics.jsonl`` and ``OUT/run.json``. It does not resume: one that was interrupted is made
anew. A file of cells is a list of ``{"environment": {...}, "overrides": [...]}``. SNAPSHOTS=N keeps the policy every N
steps (``OUT/snapshots/step-000020``, in the Hugging Face form). UNTIL_DECIDED=1 lets what becomes of a run say how long
it is: it ends early after `LOST_FOR` evaluations in a row below `LOST` of its best accuracy, and goes on, to twice
STEPS at most, while it is below `WELL` of it. ``algorithm.spro.guard.action=bound`` acts as through verl; ``warn`` says
nothing here (`python -m scripts.guard replay` says it of any run), and there are no checkpoints to ``stop`` at. What
PRIME has besides is in inprocess_prime.py.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As main_spro does, before verl is imported.
os.environ.setdefault("VERL_PLATFORM", "cpu")
os.environ.setdefault("VERL_USE_EXTERNAL_MODULES", "recipe.spro.plugin,recipe.prime_v1.plugin")

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from transformers import AutoTokenizer, Qwen2ForCausalLM
from transformers.utils.logging import disable_progress_bar
from verl import DataProto
from verl.trainer.ppo.core_algos import agg_loss, get_policy_loss_fn, kl_penalty
from verl.trainer.ppo.metric_utils import compute_data_metrics
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config.optimizer import build_optimizer

from examples.arithmetic import inprocess_prime, settings
from examples.arithmetic.inprocess_prime import Prime
from examples.arithmetic.make_data import make_data
from examples.arithmetic.make_model import MAX_NEW_TOKENS, make_base, prompt_ids
from examples.arithmetic.sampling import Responses, Rollout, log_probs, sample, update
from examples.arithmetic.scoring import scorer_of
from recipe.prime_v1.reward_model import NAME as REWARD_MODEL
from recipe.spro.guard_watch import GuardWatch, make_watch
from recipe.spro.requirements_check import ESTIMATORS, reference_schedule
from verl_ext import estimator_metrics, estimator_state
from verl_ext.config_checks import ConfigError, run_checks
from verl_ext.estimator_metrics import at_step
from verl_ext.reference_weights import is_due, update_
from verl_ext.run_record import provenance, record_path
from verl_ext.truncated_responses import METRIC as TRUNCATED

# The user block of run.sh.
DEFAULTS = {
    "METHOD": "spro",
    "BETA": "",
    "LR": "1e-4",
    "RM_LR": "",
    "SEED": "0",
    "STEPS": "80",
    "HELDOUT_N": "1000",
    "TEST_FREQ": "20",
    "RANKS": "1",
    "ROOT": "outputs/arithmetic",
    "SNAPSHOTS": "0",
    "UNTIL_DECIDED": "0",
}

ACCURACY = "val-core/arithmetic/acc/mean@1"

# For UNTIL_DECIDED=1.
LOST, LOST_FOR = 0.1, 4
WELL = 0.8


def overrides_of(environment: dict[str, str]) -> list[str]:
    """The Hydra overrides with which `run.sh` starts such a run, as far as they concern what is learned.

    A test holds the two to the same values.
    """
    of_method = [f"+method={environment['METHOD']}"]
    if environment["BETA"]:
        of_method.append(f"algorithm.spro.beta={environment['BETA']}")
    rm_lr = settings.reward_model_lr(environment)
    if rm_lr is not None:
        of_method.append(f"algorithm.prime.optim.lr={rm_lr}")
    return [
        "+stack=cpu",
        *of_method,
        "data.train_batch_size=16",
        "data.max_prompt_length=8",
        f"data.max_response_length={MAX_NEW_TOKENS}",
        f"data.seed={environment['SEED']}",
        f"data.train_files={environment['ROOT']}/data/train.parquet",
        f"data.val_files={environment['ROOT']}/data/heldout.parquet",
        f"actor_rollout_ref.model.path={environment['ROOT']}/base-seed{environment['SEED']}",
        f"actor_rollout_ref.actor.optim.lr={environment['LR']}",
        "actor_rollout_ref.actor.ppo_mini_batch_size=16",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=128",
        "actor_rollout_ref.rollout.n=8",
        f"actor_rollout_ref.rollout.seed={environment['SEED']}",
        "reward.reward_manager.name=spro",
        f"trainer.total_training_steps={environment['STEPS']}",
        f"trainer.test_freq={environment['TEST_FREQ']}",
    ]


def composed(overrides: list[str]) -> Any:
    """The configuration of `main_spro`, checked as there.

    Raises:
        ConfigError: what cannot work, or what this loop does not do.
    """
    with initialize_config_module("recipe.spro.config", version_base=None):
        config = compose("spro_trainer", overrides)
    for key, done in _DONE.items():
        value = OmegaConf.select(config, key)
        if value not in done:
            raise ConfigError(
                f"{key}={value}: examples.arithmetic.inprocess does not do that, only "
                f"{' or '.join(map(str, done))}. Runs through verl do: bash examples/arithmetic/run.sh"
            )
    run_checks(config)
    return config


def _brake(config: Any) -> GuardWatch | None:
    """The guard, where it is to act and not only to warn."""
    watch = make_watch(config)
    return watch if watch is not None and watch.settings.action == "bound" else None


# What the loop takes for granted. A setting that it would pass over in silence is refused.
_DONE: dict[str, tuple[Any, ...]] = {
    "algorithm.adv_estimator": ("grpo", "rloo", "reinforce_plus_plus", "prime", *ESTIMATORS),
    "algorithm.filter_groups.enable": (None, False),
    "algorithm.kl_ctrl.kl_coef": (0,),
    "algorithm.spro.guard.action": (None, "warn", "bound", "off", False),
    "algorithm.spro.dump.every": (None, 0),
    "actor_rollout_ref.actor.ppo_epochs": (1,),
    "actor_rollout_ref.actor.optim.lr_scheduler_type": ("constant",),
    "actor_rollout_ref.actor.optim.lr_warmup_steps": (-1, 0, None),
    "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio": (0, None),
    "actor_rollout_ref.rollout.top_p": (1,),
    "actor_rollout_ref.rollout.top_k": (-1,),
    "trainer.use_v1": (True,),
    **inprocess_prime.DONE,
}


@dataclass
class Loop:
    """One run.

    Attributes:
        config: composed.
        policy, reference: the same weights at first; no reference where the configuration has none.
        prime: PRIME's reward model and band; None for other methods.
    """

    config: Any

    def __post_init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.config.actor_rollout_ref.model.path)
        # A bar for each of hundreds of runs says nothing
        disable_progress_bar()
        self.policy = self._loaded()
        self.actor = omega_conf_to_dataclass(self.config.actor_rollout_ref.actor)
        needs_reference = self.config.algorithm.use_kl_in_reward or self.actor.use_kl_loss
        self.reference = self._loaded().requires_grad_(False) if needs_reference else None
        self.optimizer = build_optimizer(self.policy.parameters(), self.actor.optim)
        self.generator = torch.Generator().manual_seed(self.config.actor_rollout_ref.rollout.seed)
        self.train, self.heldout = (pd.read_parquet(self.config.data[name]) for name in ("train_files", "val_files"))
        self.score = scorer_of(self.config)
        self.schedule = reference_schedule(self.config)
        self.guard = _brake(self.config)
        self.prime = Prime(self.config, self._loaded) if self.config.algorithm.adv_estimator == "prime" else None
        self._order = self._rows_in_order()

    def _loaded(self, path: str | None = None) -> Any:
        path = path or self.config.actor_rollout_ref.model.path
        return Qwen2ForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")

    def _rows_in_order(self) -> Iterator[int]:
        """Endless rows of the training set, shuffled anew each epoch by ``data.seed``."""
        generator = torch.Generator().manual_seed(self.config.data.seed)
        while True:
            yield from torch.randperm(len(self.train), generator=generator).tolist()

    def _prompts(self, rows: pd.DataFrame) -> torch.Tensor:
        return torch.tensor(prompt_ids(self.tokenizer, [messages[0]["content"] for messages in rows["prompt"]]))

    def _texts(self, responses: Responses) -> list[str]:
        # As verl's reward manager: the end-of-sequence token is no text.
        return self.tokenizer.batch_decode(responses.tokens, skip_special_tokens=True)

    def _log_probs(self, model: Any, responses: Responses, *, with_entropy: bool = False) -> Any:
        # As verl: of the distribution that was sampled from.
        temperature = self.config.actor_rollout_ref.rollout.temperature
        return log_probs(model, responses, temperature=temperature, with_entropy=with_entropy)

    def evaluate(self, batch_size: int = 500) -> dict[str, float]:
        """Greedy accuracy on the held-out problems, and the mean of what else the scorer says."""
        found: dict[str, list[float]] = {}
        for start in range(0, len(self.heldout), batch_size):
            rows = self.heldout.iloc[start : start + batch_size]
            responses = sample(self.policy, self._prompts(rows), max_new_tokens=self._longest, temperature=0)
            for (_, row), text in zip(rows.iterrows(), self._texts(responses), strict=True):
                score, extra = self.score(row, text)
                for name, value in {"acc": score, **extra}.items():
                    found.setdefault(name, []).append(value)
        of_validation = {name: float(np.mean(values)) for name, values in found.items()}
        accuracy = of_validation.pop("acc")
        return {ACCURACY: accuracy} | {f"val-aux/arithmetic/{key}/mean@1": v for key, v in of_validation.items()}

    @property
    def _longest(self) -> int:
        return self.config.data.max_response_length

    def _generate(self, prompts: int) -> Rollout:
        """Responses to the next so many prompts, scored."""
        rollout = self.config.actor_rollout_ref.rollout
        rows = self.train.iloc[[next(self._order) for _ in range(prompts)]]
        responses = sample(
            self.policy,
            self._prompts(rows).repeat_interleave(rollout.n, dim=0),
            max_new_tokens=self._longest,
            temperature=rollout.temperature,
            generator=self.generator,
        )
        scored = [self.score(rows.iloc[index // rollout.n], text) for index, text in enumerate(self._texts(responses))]
        return Rollout(responses, scored, rollout.n, self.policy.generation_config.pad_token_id)

    def step(self, number: int) -> dict[str, float]:
        """One training step: sample, score, log-probs, advantage, update; returns its metrics."""
        began = time.perf_counter()
        timing = {}

        @contextmanager
        def timed(name: str) -> Iterator[None]:
            start = time.perf_counter()
            yield
            timing[f"timing_s/{name}"] = time.perf_counter() - start

        n, size = self.config.actor_rollout_ref.rollout.n, self.config.data.train_batch_size
        metrics: dict[str, Any] = {}
        with timed("gen"):
            if self.prime is None:
                rollout = self._generate(size)
            else:
                rollout, metrics = self.prime.rollout(self._generate)
        responses, scored = rollout.responses, rollout.scored
        with timed("old_log_prob"), torch.no_grad():
            old_log_probs, entropy = self._log_probs(self.policy, responses, with_entropy=True)
        batch = self._batch(responses, old_log_probs, [score for score, _ in scored], n)
        if self.reference is not None:
            with timed("ref"), torch.no_grad():
                batch.batch["ref_log_prob"] = self._log_probs(self.reference, responses)[0]
        if self.prime is not None:
            with timed(REWARD_MODEL):
                metrics |= self.prime.before_advantage(responses, batch)
        with timed("adv"), at_step(number):
            algorithm = self.config.algorithm
            batch = compute_advantage(
                batch,
                adv_estimator=algorithm.adv_estimator,
                gamma=algorithm.gamma,
                lam=algorithm.lam,
                num_repeat=n,
                norm_adv_by_std_in_grpo=algorithm.get("norm_adv_by_std_in_grpo", True),
                config=algorithm,
            )
        with timed("update_actor"):
            metrics |= self._update(responses, batch)
        # A schedule without a reference is refused before (recipe.spro.requirements_check).
        if self.reference is not None and self.schedule is not None and is_due(self.schedule, number):
            apart = update_(self.reference.parameters(), self.policy.parameters(), self.schedule.decay)
            metrics["ref_update/distance"] = apart.rms
        mask = responses.mask
        metrics["actor/entropy"] = float(agg_loss(entropy, mask, loss_agg_mode=self.actor.loss_agg_mode))
        metrics |= compute_data_metrics(batch, use_critic=False)
        metrics[TRUNCATED] = float((mask.sum(-1) >= self._longest).float().mean())
        for name in scored[0][1]:
            metrics[f"reward/{name}/mean"] = float(np.mean([extra[name] for _, extra in scored]))
        metrics |= timing | {"timing_s/step": time.perf_counter() - began, "training/global_step": number}
        metrics["perf/total_num_tokens"] = int(mask.sum()) + len(mask) * responses.prompt_length
        numbers = {name: float(value) for name, value in metrics.items()}
        if self.guard is not None:
            numbers |= self.guard.watch(self, number, numbers)
            self.guard.act(self)
        return numbers

    def _batch(self, responses: Responses, old_log_probs: torch.Tensor, scores: list[float], n: int) -> DataProto:
        """What verl's trainers hand to the advantage, padded."""
        mask = responses.mask
        rewards = torch.zeros(mask.shape)
        rewards[torch.arange(len(mask)), mask.sum(-1) - 1] = torch.tensor(scores)
        prompts = responses.ids[:, : responses.prompt_length]
        uids = np.repeat(np.array([uuid.uuid4().hex for _ in range(len(mask) // n)], dtype=object), n)
        tensors = {
            "prompts": prompts,
            "responses": responses.tokens,
            "response_mask": mask,
            "attention_mask": torch.cat([torch.ones_like(prompts), mask], dim=1),
            "old_log_probs": old_log_probs,
            "token_level_scores": rewards,
            "token_level_rewards": rewards,
        }
        return DataProto.from_dict(tensors, non_tensors={"uid": uids})

    def _update(self, responses: Responses, batch: DataProto) -> dict[str, float]:
        """One pass over the batch in verl's mini-batches, with its losses (verl/workers/utils/losses.py, ppo_loss)."""
        config, metrics = self.actor, {}
        size = config.ppo_mini_batch_size * self.config.actor_rollout_ref.rollout.n
        for start in range(0, len(batch), size):
            part = slice(start, start + size)
            chosen = responses.rows(part)
            mask = chosen.mask.bool()
            current, entropy = self._log_probs(self.policy, chosen, with_entropy=config.entropy_coeff != 0)
            loss, metrics = get_policy_loss_fn(config.policy_loss.get("loss_mode", "vanilla"))(
                old_log_prob=batch.batch["old_log_probs"][part],
                log_prob=current,
                advantages=batch.batch["advantages"][part],
                response_mask=mask,
                loss_agg_mode=config.loss_agg_mode,
                config=config,
            )
            metrics["actor/pg_loss"] = loss.item()
            if entropy is not None:
                loss = loss - config.entropy_coeff * agg_loss(entropy, mask, loss_agg_mode=config.loss_agg_mode)
            if config.use_kl_loss:
                kl = kl_penalty(current, batch.batch["ref_log_prob"][part], config.kl_loss_type)
                kl_loss = agg_loss(kl, mask, loss_agg_mode=config.loss_agg_mode)
                loss = loss + config.kl_loss_coef * kl_loss
                metrics["actor/kl_loss"] = kl_loss.item()
            metrics["actor/grad_norm"] = update(self.policy, self.optimizer, loss, config.optim.clip_grad)
        return metrics


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One at a time, as in run.sh: runs side by side share data and base model."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(environment: dict[str, str], overrides: list[str]) -> Path:
    """Make one run; returns its folder.

    Raises:
        ConfigError, ValueError: as `composed`, and as `settings.settings`.
    """
    environment = DEFAULTS | {key: value for key, value in environment.items() if value != ""}
    snapshots, until_decided = int(environment["SNAPSHOTS"]), bool(int(environment["UNTIL_DECIDED"]))
    # Of what tells runs apart here and not through verl, the last three are what else a folder holds.
    found = settings.settings(environment, overrides)
    found |= {"stack": "inprocess", "test_freq": int(environment["TEST_FREQ"]), "snapshots": snapshots}
    # Not said of those that go on: runs were kept before there was a choice.
    found |= {"until_decided": True} if until_decided else {}
    out = Path(environment.get("OUT") or f"{environment['ROOT']}/{settings.name(environment, found['beta'])}")
    seed, steps, root = int(environment["SEED"]), int(environment["STEPS"]), Path(environment["ROOT"])
    metrics = out / "metrics.jsonl"
    if (out / "run.json").exists() and json.loads((out / "run.json").read_text()) == found:
        print(f"{out}: done already", flush=True)
        return out
    torch.set_num_threads(1)
    all_overrides = [*overrides_of(environment), *overrides]
    with _alone(root):
        make_data(root / "data", heldout=int(environment["HELDOUT_N"]))
        make_base(root / "data", root / f"base-seed{seed}", seed)
    config = composed(all_overrides)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    record_path(metrics).write_text(json.dumps([provenance(config, all_overrides)]) + "\n")
    # Nothing of a run before, in this process.
    estimator_state.clear()
    estimator_metrics.drain()
    torch.manual_seed(seed)
    loop, test_freq, curve = Loop(config), config.trainer.test_freq, []
    with metrics.open("w") as file:
        for number in range((2 * steps if until_decided else steps) + 1):
            row = loop.step(number) if number else {}
            if number in (steps, 2 * steps) or (test_freq > 0 and number % test_freq == 0):
                row |= loop.evaluate()
            if snapshots and number % snapshots == 0:
                loop.policy.save_pretrained(out / "snapshots" / f"step-{number:06d}")
            file.write(json.dumps({"step": number, "data": row}) + "\n")
            if ACCURACY in row:
                reward = f", training reward {row['critic/score/mean']:.2f}" if number else ""
                print(f"{out.name}: step {number}/{steps}, held-out accuracy {row[ACCURACY]:.3f}{reward}", flush=True)
                curve.append(row[ACCURACY])
                if until_decided and _is_decided(curve, number >= steps):
                    break
    # Last: its presence says that the run is whole.
    (out / "run.json").write_text(json.dumps(found) + "\n")
    return out


def _is_decided(curve: list[float], is_long: bool) -> bool:
    """Whether more steps would say nothing new of a run with these accuracies so far."""
    best = max(curve)
    is_lost = len(curve) > LOST_FOR and max(curve[-LOST_FOR:]) < LOST * best
    return is_lost or (is_long and curve[-1] >= WELL * best)


def _run_cell(cell: dict[str, Any]) -> str | None:
    try:
        run(cell["environment"], cell["overrides"])
    except Exception:  # noqa: BLE001
        # Of a child process: the others go on, and the parent says at the end which failed.
        return f"{cell}:\n{traceback.format_exc()}"
    return None


def run_cells(cells: list[dict[str, Any]], jobs: int) -> int:
    """Make many runs, each in a process forked from this one, which has imported everything; how many failed."""
    began, failed = time.monotonic(), 0
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for done, error in enumerate(pool.imap_unordered(_run_cell, cells), start=1):
            if error:
                failed += 1
                print(error, file=sys.stderr, flush=True)
            left = (time.monotonic() - began) / done * (len(cells) - done)
            print(f"{done} of {len(cells)} runs, about {left / 60:.0f} min left", file=sys.stderr, flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, help="JSON file with many runs")
    parser.add_argument("--jobs", type=int, default=2, help="of them at a time (default %(default)s)")
    arguments, overrides = parser.parse_known_args()
    if arguments.cells:
        if overrides:
            parser.error(f"{overrides[0]}: each cell has its own overrides")
        sys.exit(run_cells(json.loads(arguments.cells.read_text()), arguments.jobs) > 0)
    try:
        run(dict(os.environ), overrides)
    except (ConfigError, ValueError, FileExistsError) as error:
        sys.exit(f"inprocess: {error}")


if __name__ == "__main__":
    main()
