"""From the steps of an answer to LangChain's chunks."""

import json
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from gac_core import Outcome, Step
from gac_core.chat.response_format import AnswerForm
from gac_core.chat.tools import Call, CallPart
from gac_integrations.shared.serialize import outcome_view, token_view


class ChunkMaker:
    """The chunks of one answer: text and calls as they come, then an empty one with the rest.

    Args:
        model_name: what the message says wrote it.
        form: of the answer; calls are read only where there are tools to call.

    """

    def __init__(self, model_name: str, form: AnswerForm) -> None:
        self._model_name = model_name
        self._reader = form.call_reader()
        self._form = form
        self._names: list[str] = []
        self._logprobs: list[dict[str, Any]] = []
        self._id = f"run-{uuid4()}"

    def push(self, step: Step) -> list[ChatGenerationChunk]:
        """The chunks that are certain with this step."""
        if step.top:
            self._logprobs.append(token_view(step))
        pieces: list[str | CallPart | Call] = []
        if self._reader is None:
            pieces = [step.text] if step.text else []
        else:
            pieces = self._reader.push(step.text)
            if step.outcome is not None:
                pieces += self._reader.end(is_cut=step.outcome.finish_reason == "length")
        chunks = [chunk for piece in pieces if (chunk := self._chunk(piece)) is not None]
        if step.outcome is not None:
            chunks.append(self._last(step.outcome))
        return chunks

    def _chunk(self, piece: str | CallPart | Call) -> ChatGenerationChunk | None:
        if isinstance(piece, str):
            return self._of(AIMessageChunk(content=piece, response_metadata=self._metadata()))
        if isinstance(piece, CallPart):
            is_first, arguments = piece.name is not None, piece.arguments
        elif piece.was_told:
            return None
        elif piece.name is None:  # it is no call, so it is text
            return self._chunk(piece.text)
        else:
            is_first, arguments = True, json.dumps(piece.arguments)
        if is_first:
            self._names.append(piece.name or "")
        call = tool_call_chunk(
            name=piece.name,
            args=arguments,
            id=f"call_{uuid4().hex}" if is_first else None,
            index=len(self._names) - 1,
        )
        return self._of(
            AIMessageChunk(content="", tool_call_chunks=[call], response_metadata=self._metadata())
        )

    def _metadata(self) -> dict[str, Any]:
        if not self._logprobs:
            return {}
        logprobs, self._logprobs = self._logprobs, []
        return {"logprobs": {"content": logprobs}}

    def _last(self, outcome: Outcome) -> ChatGenerationChunk:
        self._form.check_calls(self._names, outcome)
        usage = outcome.usage
        metadata = outcome_view(outcome, self._model_name, has_calls=bool(self._names))
        reason = metadata["finish_reason"]
        metadata |= self._metadata()
        message = AIMessageChunk(
            content="",
            usage_metadata=UsageMetadata(
                input_tokens=usage.prompt_tokens,
                output_tokens=usage.completion_tokens,
                total_tokens=usage.total_tokens,
            ),
            response_metadata=metadata,
            chunk_position="last",
        )
        return self._of(message, {"finish_reason": reason})

    def _of(
        self, message: AIMessageChunk, info: dict[str, Any] | None = None
    ) -> ChatGenerationChunk:
        message.id = self._id
        return ChatGenerationChunk(message=message, generation_info=info)
