"""From the steps of an answer to LangChain's chunks."""

from typing import Any, Final
from uuid import uuid4

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from gac_core import Step
from gac_core.chat.deltas import CallDelta, Delta, DeltaReader, EndDelta, TextDelta
from gac_core.chat.response_format import AnswerForm
from gac_integrations.shared.serialize import end_dict, token_dict

# Finish reasons as LangChain names them for all providers, in metadata since langchain-core 1.8.4.
_NORMALIZED: Final = {"stop": "stop", "length": "length", "tool_calls": "tool_call"}


class ChunkMaker:
    """The chunks of one answer: text and calls as they come, then an empty one with the rest.

    Args:
        model_name: the model's name in the message.
        form: of the answer.
        in_blocks: whether text comes in blocks, which are counted together with the calls, so that
            chunks of what stands apart are never joined (``output_version="v1"``).

    """

    def __init__(self, model_name: str, form: AnswerForm, *, in_blocks: bool = False) -> None:
        self._model_name = model_name
        self._in_blocks = in_blocks
        self._block = -1  # the number of the current one
        self._is_text = False  # the current one
        self._reader = DeltaReader(form)
        self._logprobs: list[dict[str, Any]] = []  # since the last chunk
        self._id = f"run-{uuid4()}"

    def push(self, step: Step) -> list[ChatGenerationChunk]:
        """The chunks that are certain with this step."""
        if step.top:
            self._logprobs.append(token_dict(step))
        return [self._chunk(delta) for delta in self._reader.push(step)]

    def _chunk(self, delta: Delta) -> ChatGenerationChunk:
        metadata: dict[str, Any] = {}
        info = None
        if self._logprobs:
            metadata["logprobs"] = {"content": self._logprobs}
            self._logprobs = []
        match delta:
            case TextDelta():
                message = AIMessageChunk(
                    content=self._content(delta.text), response_metadata=metadata
                )
            case CallDelta():
                call = tool_call_chunk(
                    name=delta.name, args=delta.arguments, id=delta.id, index=self._index(delta)
                )
                message = AIMessageChunk(
                    content="", tool_call_chunks=[call], response_metadata=metadata
                )
            case EndDelta():
                usage = delta.outcome.usage
                message = AIMessageChunk(
                    content="",
                    usage_metadata=UsageMetadata(
                        input_tokens=usage.prompt_tokens,
                        output_tokens=usage.completion_tokens,
                        total_tokens=usage.total_tokens,
                    ),
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

    def _content(self, text: str) -> str | list[str | dict[str, Any]]:
        if not self._in_blocks:
            return text
        if not self._is_text:
            self._block, self._is_text = self._block + 1, True
        return [{"type": "text", "text": text, "index": self._block}]

    def _index(self, delta: CallDelta) -> int:
        """The number of a call: of its block, or among the calls."""
        if not self._in_blocks:
            return delta.index
        if delta.id is not None:
            self._block, self._is_text = self._block + 1, False
        return self._block
