"""verl's own servers, agent loop and reward loop, without a trainer around them: prompts in, graded responses out.

The same actors as in training: `LLMServerManager` starts the vLLM servers (stand-alone: they read the weights
themselves), `AgentLoopManager` asks them, and the reward loop's manager `spro` grades each response as it comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf

from recipe.spro.main_spro import forward_plugins_to_other_nodes
from scripts.evaluate.config import devices_of_a_server
from scripts.evaluate.problems import Problems
from scripts.evaluate.store import Response


class NotEnoughDevices(RuntimeError):
    """The cluster has fewer devices than the configuration asks for, and Ray would wait for them for ever."""


@contextmanager
def cluster(config: Any) -> Iterator[None]:
    """Ray as verl starts it for a training: a cluster that is there (``RAY_ADDRESS``), or one of its own.

    Raises:
        NotEnoughDevices: naming what there is.
    """
    import ray
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    forward_plugins_to_other_nodes(config)
    arguments = OmegaConf.to_container(config.ray_kwargs.get("ray_init", None) or OmegaConf.create({}), resolve=True)
    runtime_env = OmegaConf.merge(get_ppo_ray_runtime_env(config), arguments.pop("runtime_env", None) or {})
    ray.init(**arguments, runtime_env=OmegaConf.to_container(runtime_env))
    try:
        wanted, there = config.trainer.nnodes * config.trainer.n_gpus_per_node, ray.cluster_resources().get("GPU", 0)
        if wanted > there:
            raise NotEnoughDevices(
                f"trainer.nnodes={config.trainer.nnodes} x trainer.n_gpus_per_node={config.trainer.n_gpus_per_node}: "
                f"Ray has {there:g} GPUs. Lower them, or start Ray on more nodes."
            )
        yield
    finally:
        ray.shutdown()


class Servers:
    """Running servers; made by `start`, inside `cluster`."""

    def __init__(
        self, config: Any, loop: Any, dataset_cls: Any, tokenizer: Any, processor: Any, ends: set[int]
    ) -> None:
        self._config, self._loop = config, loop
        self._dataset_cls, self._tokenizer, self._processor, self._ends = dataset_cls, tokenizer, processor, ends

    @classmethod
    async def start(cls, config: Any) -> Servers:
        """Starts servers, agent loop and reward loop; takes from half a minute to several."""
        from transformers import GenerationConfig
        from verl.experimental.agent_loop import AgentLoopManager
        from verl.experimental.reward_loop import RewardLoopManager
        from verl.utils import hf_processor, hf_tokenizer
        from verl.utils.dataset.rl_dataset import get_dataset_class
        from verl.workers.rollout.llm_server import LLMServerManager

        model = config.actor_rollout_ref.model
        servers = await LLMServerManager.create(config=config)
        rewards = RewardLoopManager(config)
        loop = await AgentLoopManager.create(
            config=config,
            llm_client=servers.get_client(),
            reward_loop_worker_handles=rewards.reward_loop_worker_handles,
        )
        trusted = model.get("trust_remote_code", False)
        tokenizer = hf_tokenizer(model.path, trust_remote_code=trusted)
        try:
            ends = GenerationConfig.from_pretrained(model.path).eos_token_id
        except OSError:
            # A model without generation_config.json ends where its tokenizer says.
            ends = None
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        processor = hf_processor(model.path, trust_remote_code=trusted)
        return cls(config, loop, get_dataset_class(config.data), tokenizer, processor, ends)

    def rows(self, problems: Problems) -> Any:
        """verl's own reading of the file: item i is problem i."""
        data = self._config.data
        return self._dataset_cls([str(problems.path)], self._tokenizer, data, self._processor)

    def chunks_at_once(self, chunk: int, samples: int) -> int:
        """Chunks that are under way together, so that the longest response of one does not leave the servers idle."""
        rollout = self._config.actor_rollout_ref.rollout
        replicas = rollout.n_gpus_per_node * rollout.nnodes // devices_of_a_server(self._config)
        return max(2, math.ceil(2 * replicas * rollout.max_num_seqs / (chunk * samples)))

    async def answer(self, rows: Any, problems: Sequence[int], *, greedy: bool, samples: int) -> list[Response]:
        """All samples of these problems, graded, in order."""
        from verl import DataProto
        from verl.protocol import pad_dataproto_to_divisor
        from verl.utils.dataset.rl_dataset import collate_fn

        asked = [(problem, sample) for problem in problems for sample in range(samples)]
        items = {problem: rows[problem] for problem in problems}
        batch = DataProto.from_single_dict(collate_fn([items[problem] for problem, _ in asked]))
        batch.meta_info["validate"] = greedy
        padded, _ = pad_dataproto_to_divisor(batch, self._config.actor_rollout_ref.rollout.agent.num_workers)
        output = await self._loop.generate_sequences(padded)
        start = output.batch["prompts"].shape[1]
        return [self._response(problem, sample, output[place], start) for place, (problem, sample) in enumerate(asked)]

    def _response(self, problem: int, sample: int, item: Any, start: int) -> Response:
        valid = item.batch["attention_mask"][start:].bool()
        ids = item.batch["responses"][valid].tolist()
        values = item.non_tensor_batch
        return Response(
            problem=problem,
            sample=sample,
            text=self._tokenizer.decode(ids, skip_special_tokens=True),
            tokens=len(ids),
            truncated=not ids or ids[-1] not in self._ends,
            kind=str(values["kind"]),
            score=float(item.batch["rm_scores"].sum()),
            extracted=str(values["extracted"]),
            detail=str(values["detail"]),
        )
