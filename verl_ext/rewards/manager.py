"""verl's reward manager `spro`: outcome verification by data source, with a verdict's kind beside its score.

    reward.reward_manager.name=spro

It runs in verl's reward loop, one response at a time, while others are still generated, with any estimator. Each row's
`reward_extra_info` carries `kind`, so that dumps show it, `acc` (1.0 for correct), what was extracted, and the time.
"""

from __future__ import annotations

import inspect
from typing import Any

from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.experimental.reward_loop.reward_manager.registry import register

from verl_ext.rewards.routing import verifier_of
from verl_ext.rewards.service import ServiceOfNode
from verl_ext.rewards.settings import MANAGER, RewardSettings
from verl_ext.rewards.verdict import Kind, Verdict
from verl_ext.rewards.verifiers import verdict_of_result

# Characters of an answer that dumps show.
_SHOWN = 200


def _printable(text: str) -> str:
    """What a file and a column of strings can hold of a model's text."""
    return text[:_SHOWN].encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


@register(MANAGER)
class SproRewardManager(RewardManagerBase):
    """Routes a response to its verifier. Settings: `reward.reward_kwargs` (see `RewardSettings`)."""

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        super().__init__(config, tokenizer, compute_score)
        self.settings = RewardSettings.from_config(config)
        # Without a function of the user's, verl passes its own graders, which are what this replaces.
        has_user_function = config.reward.custom_reward_function.path is not None
        self.user_function = compute_score if has_user_function else None
        self.service = ServiceOfNode(self.settings)
        self.reward_router_address = reward_router_address
        self.reward_model_tokenizer = reward_model_tokenizer

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of one session: of several outputs, the last one counts."""
        item = data[-1:][0]
        row = item.non_tensor_batch
        response = await self.loop.run_in_executor(None, self._decode, item)
        gold = row["reward_model"]["ground_truth"]
        verifier = verifier_of(
            row["data_source"], self.settings.sources, has_user_function=self.user_function is not None
        )
        more: dict[str, Any] = {}
        if verifier == "user":
            verdict, more = await self._ask_user_function(row, response, gold)
            seconds, queue = 0.0, 0
        else:
            verdict, seconds, queue = await self.service.verify(verifier, response, gold)
        info = {
            "acc": float(verdict.kind == Kind.CORRECT),
            "kind": str(verdict.kind),
            "extracted": _printable(verdict.extracted or ""),
            "detail": _printable(verdict.detail),
            "verify_s": seconds,
            "verify_queue": queue,
        }
        return {"reward_score": verdict.score, "reward_extra_info": {**more, **info}}

    def _decode(self, item: Any) -> str:
        ids = item.batch["responses"]
        valid = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
        return self.tokenizer.decode(ids[:valid], skip_special_tokens=True)

    async def _ask_user_function(self, row: Any, response: str, gold: Any) -> tuple[Verdict, dict[str, Any]]:
        """`reward.custom_reward_function`, called as verl's own managers call it."""
        arguments = {
            "data_source": row["data_source"],
            "solution_str": response,
            "ground_truth": gold,
            "extra_info": {
                **row.get("extra_info", {}),
                **(row.get("tool_extra_fields", None) or {}),
                "num_turns": row.get("__num_turns__", None),
                "rollout_reward_scores": row.get("reward_scores", {}),
            },
        }
        if self.reward_router_address is not None:
            arguments["reward_router_address"] = self.reward_router_address
            arguments["reward_model_tokenizer"] = self.reward_model_tokenizer
        assert self.user_function is not None
        if inspect.iscoroutinefunction(self.user_function):
            result = await self.user_function(**arguments)
        else:
            result = await self.loop.run_in_executor(None, lambda: self.user_function(**arguments))
        return verdict_of_result(result, self.settings)
