"""An agent loop with a tool, driven by an untrained model. Loaded by verl's agent-loop workers."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

# Tokens of the model in a turn at most, and turns in an output.
TURN_TOKENS, TURNS = 5, 3


def count_vowels(text: str) -> str:
    """The tool: something that depends on what the model wrote."""
    return f"<{sum(character in 'aeiouAEIOU' for character in text) % 10}\n>"


class ForcedToolAgentLoop(AgentLoopBase):
    """Calls a tool between the model's turns, whatever the model wrote.

    verl's own `tool_agent` waits for the model to write a call in some format, which an untrained model never does.
    The model's turns come from the run's vLLM server; the tool runs in this process, and its words (with a newline)
    go into the context with mask 0. Sessions of an odd number return two outputs: the second begins with a fresh
    context, the prompt and the first output's last tokens, as an agent that condenses its history would.
    """

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput | list[AgentLoopOutput]:
        prompt = await self.ct_build_initial_tokens(list(kwargs["raw_prompt"]))
        first = await self._converse(prompt, sampling_params)
        if int(kwargs["session_id"]) % 2 == 0:
            return first
        return [first, await self._converse([*prompt[:-2], *first.response_ids[-2:]], sampling_params)]

    async def _converse(self, prompt: list[int], sampling_params: dict[str, Any]) -> AgentLoopOutput:
        response: list[int] = []
        mask: list[int] = []
        log_probs: list[float] = []
        extra_fields: dict[str, Any] = {}
        for turn in range(TURNS):
            output = await self.server_manager.generate(
                request_id=uuid4().hex,
                prompt_ids=[*prompt, *response],
                # Turns of different lengths, so that a turn is no fixed span of positions.
                sampling_params={**sampling_params, "max_tokens": TURN_TOKENS - turn},
            )
            extra_fields = extra_fields or dict(output.extra_fields)
            response += output.token_ids
            mask += [1] * len(output.token_ids)
            log_probs += output.log_probs
            if turn < TURNS - 1:
                words = self.tokenizer.encode(count_vowels(self.tokenizer.decode(output.token_ids)))
                response += words
                mask += [0] * len(words)
                log_probs += [0.0] * len(words)
        return AgentLoopOutput(
            prompt_ids=prompt,
            response_ids=response,
            response_mask=mask,
            response_logprobs=log_probs,
            num_turns=2 * TURNS,
            metrics=AgentLoopMetrics(),
            extra_fields={**extra_fields, "turn_scores": [], "tool_rewards": []},
        )
