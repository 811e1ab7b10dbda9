"""From the steps of an answer to LlamaIndex's responses."""

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)

from gac_core import Step
from gac_core.chat.tools import Call, CallPart
from gac_integrations.shared.call import ChatRequest
from gac_integrations.shared.serialize import outcome_view, token_view


@dataclass
class _Called:
    """A call as far as it is written."""

    name: str
    arguments: str
    id: str


class ResponseMaker:
    """The responses of one answer: each has the whole text so far, and what came with it.

    `raw` holds, as plain data, the tokens that came with a response ("tokens", each with every
    member's view), and at the end of an answer how it ended and its "usage".

    Args:
        model_name: what the raw response says wrote it.
        request: what was asked; calls are read only where there are tools to call.

    """

    def __init__(self, model_name: str, request: ChatRequest) -> None:
        self._model_name = model_name
        form = request.form
        self._has_logprobs = request.params.logprobs
        self._reader = form.call_reader()
        self._form = form
        self._text = ""
        self._calls: list[_Called] = []
        self._tokens: list[dict[str, Any]] = []
        self._end: dict[str, Any] = {}

    def push(self, step: Step) -> str | None:
        """The text that came with a step; None if nothing did that a consumer could see."""
        self._tokens.append(token_view(step))
        pieces: list[str | CallPart | Call] = [step.text] if step.text else []
        if self._reader is not None:
            pieces = self._reader.push(step.text)
            if step.outcome is not None:
                pieces += self._reader.end(is_cut=step.outcome.finish_reason == "length")
        delta = ""
        for piece in pieces:
            if isinstance(piece, str):
                delta += piece
            elif isinstance(piece, Call) and piece.name is None and not piece.was_told:
                delta += piece.text  # it is no call
            else:
                self._take_call(piece)
        self._text += delta
        if step.outcome is not None:
            self._form.check_calls([call.name for call in self._calls], step.outcome)
            usage = step.outcome.usage
            self._end = {
                **outcome_view(step.outcome, self._model_name, has_calls=bool(self._calls)),
                "usage": {
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "total_tokens": usage.total_tokens,
                },
            }
        return delta if pieces or step.outcome is not None else None

    def chat(self, delta: str | None = None) -> ChatResponse:
        """What was said since the last response, as an answer of a chat."""
        blocks: list[Any] = [TextBlock(text=self._text)] if self._text or not self._calls else []
        additional: dict[str, Any] = {}
        if self._calls:
            blocks += [
                ToolCallBlock(
                    tool_call_id=call.id,
                    tool_name=call.name,
                    tool_kwargs=_arguments(call.arguments),
                )
                for call in self._calls
            ]
            additional["tool_calls"] = [  # where some of LlamaIndex looks for them
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self._calls
            ]
        message = ChatMessage(
            role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=additional
        )
        return ChatResponse(message=message, delta=delta, **self._told())

    def completion(self, delta: str | None = None) -> CompletionResponse:
        """What was said since the last response, as a completion."""
        return CompletionResponse(text=self._text, delta=delta, **self._told())

    def _told(self) -> dict[str, Any]:
        tokens, self._tokens = self._tokens, []
        logprobs = [_logprobs(token) for token in tokens] if self._has_logprobs else None
        return {"raw": {"tokens": tokens, **self._end}, "logprobs": logprobs or None}

    def _take_call(self, piece: CallPart | Call) -> None:
        if isinstance(piece, CallPart):
            if piece.name is not None:
                self._calls.append(_Called(piece.name, "", f"call_{uuid4().hex}"))
            self._calls[-1].arguments += piece.arguments
        elif not piece.was_told and piece.name is not None:
            arguments = json.dumps(piece.arguments, ensure_ascii=False)
            self._calls.append(_Called(piece.name, arguments, f"call_{uuid4().hex}"))


def _arguments(text: str) -> dict[str, Any] | str:
    """The arguments of a call; while they are being written, their text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def _logprobs(token: dict[str, Any]) -> list[LogProb]:
    """The most probable tokens, and behind them the chosen one if it is not among them."""
    named = list(token["top_logprobs"])
    if all(other["bytes"] != token["bytes"] for other in named):
        named.append(token)
    return [LogProb(token=n["token"], logprob=n["logprob"], bytes=n["bytes"]) for n in named]
