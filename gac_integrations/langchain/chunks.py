"""From the steps of an answer to LangChain's chunks."""

from typing import Any, Final
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

# Finish reasons as LangChain names them for all providers, in metadata since langchain-core 1.8.4.
_NORMALIZED: Final = {"stop": "stop", "length": "length", "tool_calls": "tool_call"}


class ChunkMaker:
    """The chunks of one answer: thought, text, calls as they come; an empty one with the rest.

    Args:
        model_name: the model's name in the message.
        form: of the answer.
        in_blocks: whether thought and text come in blocks, which are counted together with the
            calls, so that chunks of what stands apart are never joined (``output_version="v1"``).

    """

    def __init__(self, model_name: str, form: AnswerForm, *, in_blocks: bool = False) -> None:
        self._model_name = model_name
        self._in_blocks = in_blocks
        self._block = -1  # the number of the current one
        self._kind = ""  # of the current one
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
                if self._in_blocks:
                    message = AIMessageChunk(content=self._part("reasoning", delta.text))
                else:
                    beside = {"reasoning_content": delta.text}
                    message = AIMessageChunk(content="", additional_kwargs=beside)
            case TextDelta():
                message = AIMessageChunk(
                    content=self._part("text", delta.text) if self._in_blocks else delta.text,
                    response_metadata=metadata,
                )
            case CallDelta():
                call = tool_call_chunk(
                    name=delta.name, args=delta.arguments, id=delta.id, index=self._index(delta)
                )
                message = AIMessageChunk(
                    content="", tool_call_chunks=[call], response_metadata=metadata
                )
            case EndDelta():
                message = AIMessageChunk(
                    content="",
                    usage_metadata=_usage(delta.outcome.usage),
                    response_metadata={
                        **end_dict(delta, self._model_name),
                        "normalized_finish_reason": _NORMALIZED[delta.finish_reason],
                        **metadata,
                    },
                    chunk_position="last",
                )
                info = {"finish_reason": delta.finish_reason}
        message.id = self._id
        return ChatGenerationChunk(message=message, generation_info=info)

    def _part(self, kind: str, text: str) -> list[str | dict[str, Any]]:
        """The next characters of a block of a kind, which has its text under the same name."""
        if self._kind != kind:
            self._block, self._kind = self._block + 1, kind
        return [{"type": kind, kind: text, "index": self._block}]

    def _index(self, delta: CallDelta) -> int:
        """The number of a call: of its block, or among the calls."""
        if not self._in_blocks:
            return delta.index
        if delta.id is not None:
            self._block, self._kind = self._block + 1, "call"
        return self._block


def _usage(usage: Usage) -> UsageMetadata:
    counts = UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )
    if usage.thought_tokens:
        counts["output_token_details"] = OutputTokenDetails(reasoning=usage.thought_tokens)
    return counts
