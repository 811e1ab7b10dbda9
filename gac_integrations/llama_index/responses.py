"""From the steps of an answer to LlamaIndex's responses."""

import json
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from gac_core import Step
from gac_core.chat.deltas import DeltaReader, EndDelta, TextDelta
from gac_integrations.shared.call import ChatRequest
from gac_integrations.shared.serialize import end_dict, token_dict, usage_dict


class ResponseMaker:
    """The responses of one answer, each with the whole text so far.

    `raw` holds, as plain data, the tokens that are new in a response ("tokens", each with every
    member's view), and at the end of an answer its finish reason and "usage".

    Args:
        model_name: the model's name in the raw response.
        request: the request that is answered.

    """

    def __init__(self, model_name: str, request: ChatRequest) -> None:
        self._model_name = model_name
        self._has_logprobs = request.params.logprobs
        self._reader = DeltaReader(request.form)
        self._tokens: list[dict[str, Any]] = []  # since the last response
        self._end: dict[str, Any] = {}
        self._thought_delta = ""  # of the last step
        self._thought_tokens: int | None = None  # known at the end

    def push(self, step: Step) -> str | None:
        """The text that is certain with a step; None if the step gives no text and no call."""
        if not step.is_thought:
            self._tokens.append(token_dict(step))
        self._thought_delta = step.thought or ""
        deltas = self._reader.push(step)
        for delta in deltas:
            if isinstance(delta, EndDelta):
                usage = usage_dict(delta.outcome.usage)
                self._thought_tokens = delta.outcome.usage.thought_tokens
                self._end = {**end_dict(delta, self._model_name), "usage": usage}
        if not deltas:
            return None
        return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))

    def chat(self, delta: str | None = None) -> ChatResponse:
        """The answer so far, as that of a chat."""
        text, calls = self._reader.text, self._reader.calls
        thought = self._reader.thought
        blocks: list[Any] = []
        if thought:
            blocks.append(ThinkingBlock(content=thought, num_tokens=self._thought_tokens))
        if text or not calls:
            blocks.append(TextBlock(text=text))
        additional: dict[str, Any] = {}
        if calls:
            blocks += [
                ToolCallBlock(
                    tool_call_id=call.id,
                    tool_name=call.name,
                    tool_kwargs=_arguments(call.arguments),
                )
                for call in calls
            ]
            additional["tool_calls"] = [  # where parts of LlamaIndex look for calls
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in calls
            ]
        message = ChatMessage(
            role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=additional
        )
        return ChatResponse(message=message, delta=delta, **self._record(), **self._thinking())

    def _thinking(self) -> dict[str, Any]:
        """What is new of the thought, where LlamaIndex's agents look for it."""
        if not self._thought_delta:
            return {}
        return {"additional_kwargs": {"thinking_delta": self._thought_delta}}

    def completion(self, delta: str | None = None) -> CompletionResponse:
        """The answer so far, as a completion."""
        return CompletionResponse(text=self._reader.text, delta=delta, **self._record())

    def _record(self) -> dict[str, Any]:
        tokens, self._tokens = self._tokens, []
        logprobs = [_logprobs(token) for token in tokens] if self._has_logprobs else None
        return {"raw": {"tokens": tokens, **self._end}, "logprobs": logprobs or None}


def _arguments(text: str) -> dict[str, Any] | str:
    """The arguments of a call; while they are being written, their text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def _logprobs(token: dict[str, Any]) -> list[LogProb]:
    """The most probable tokens, then the chosen one if it is not among them."""
    named = list(token["top_logprobs"])
    if all(other["bytes"] != token["bytes"] for other in named):
        named.append(token)
    return [LogProb(token=n["token"], logprob=n["logprob"], bytes=n["bytes"]) for n in named]
