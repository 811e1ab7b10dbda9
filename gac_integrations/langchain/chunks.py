"""From the steps of an answer to LangChain's chunks."""

from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import OutputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from gac_core import Step, Usage
from gac_core.chat.deltas import (
    CallDelta,
    Delta,
    DeltaReader,
    EndDelta,
    TextDelta,
    ThoughtDelta,
)
from gac_core.chat.response_format import AnswerForm
from gac_integrations.shared.serialize import end_dict, token_dict


class ChunkMaker:
    """The chunks of one answer: thought, text, calls as they come; an empty one with the rest.

    Args:
        model_name: the model's name in the message.
        form: of the answer.

    """

    def __init__(self, model_name: str, form: AnswerForm) -> None:
        self._model_name = model_name
        self._reader = DeltaReader(form)
        self._logprobs: list[dict[str, Any]] = []  # since the last chunk
        self._id = f"run-{uuid4()}"

    def push(self, step: Step) -> list[ChatGenerationChunk]:
        """The chunks that are certain with this step."""
        if step.top and not step.is_thought:
            self._logprobs.append(token_dict(step))
        return [self._chunk(delta) for delta in self._reader.push(step)]

    def _chunk(self, delta: Delta) -> ChatGenerationChunk:
        metadata: dict[str, Any] = {}
        info = None
        if self._logprobs:
            metadata["logprobs"] = {"content": self._logprobs}
            self._logprobs = []
        match delta:
            case ThoughtDelta():
                message = AIMessageChunk(
                    content="", additional_kwargs={"reasoning_content": delta.text}
                )
            case TextDelta():
                message = AIMessageChunk(content=delta.text, response_metadata=metadata)
            case CallDelta():
                call = tool_call_chunk(
                    name=delta.name, args=delta.arguments, id=delta.id, index=delta.index
                )
                message = AIMessageChunk(
                    content="", tool_call_chunks=[call], response_metadata=metadata
                )
            case EndDelta():
                message = AIMessageChunk(
                    content="",
                    usage_metadata=_usage(delta.outcome.usage),
                    response_metadata={**end_dict(delta, self._model_name), **metadata},
                    chunk_position="last",
                )
                info = {"finish_reason": delta.finish_reason}
        message.id = self._id
        return ChatGenerationChunk(message=message, generation_info=info)


def _usage(usage: Usage) -> UsageMetadata:
    counts = UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )
    if usage.thought_tokens:
        counts["output_token_details"] = OutputTokenDetails(reasoning=usage.thought_tokens)
    return counts
