"""verl's own agents, driven by an untrained model. Loaded by verl's agent-loop workers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser

from tests.e2e import interrupt


@ToolParser.register("everything_is_a_call")
class EverythingIsACall(ToolParser):
    """Sees a call of the tool in whatever the model wrote: an untrained model never writes one in a format."""

    @property
    def stop_token_ids(self) -> list[int]:
        """Every sixth token ends the model's turn, which an untrained model does not do either."""
        return [index for index in range(0, len(self.tokenizer), 6) if index != self.tokenizer.eos_token_id]

    async def extract_tool_calls(self, responses_ids: list[int], tools: Any = None) -> tuple[str, list[FunctionCall]]:
        text = self.tokenizer.decode(responses_ids)
        return text, [FunctionCall(name="count_vowels", arguments=json.dumps({"text": text}))]


class ToolAgentOfTwoOutputs(ToolAgentLoop):
    """verl's tool agent, of which sessions of an odd number return two outputs.

    The second begins with a fresh context, as an agent that condenses its history would: the prompt with the last two
    characters of the first output in place of its own.
    """

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput | list[AgentLoopOutput]:
        first = await super().run(sampling_params, **kwargs)
        if int(kwargs["session_id"]) % 2 == 0:
            return first
        (message,) = kwargs.pop("raw_prompt")
        # One token a character, so that the prompt stays as long as it was.
        last = "".join(
            character if character.isascii() else "?" for character in self.tokenizer.decode(first.response_ids[-2:])
        )
        condensed = {**message, "content": message["content"][:-2] + last[-2:]}
        return [first, await super().run(sampling_params, raw_prompt=[condensed], **kwargs)]


class LateAgent(SingleTurnAgentLoop):
    """verl's own loop of one turn; the later prompts wait until the weights are about to be replaced: `interrupt`."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        while interrupt.waits(int(kwargs["index"])):
            await asyncio.sleep(0.005)
        output = await super().run(sampling_params, **kwargs)
        interrupt.note_answered(int(kwargs["index"]))
        return output
