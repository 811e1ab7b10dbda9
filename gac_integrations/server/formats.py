"""Answers and pieces of them as the objects of OpenAI's API."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from gac_core.chat.deltas import CallDelta, Delta, EndDelta, TextDelta, ThoughtDelta
from gac_integrations.server.answers import Answer
from gac_integrations.shared.serialize import end_dict


class Format(ABC):
    """The objects of one response.

    Args:
        model: its name.
        fingerprint: of the ensemble; the same seed draws the same text while it is the same.
        has_usage: whether the stream ends with the usage.

    """

    prompt_field: str  # of the request
    prefix: str  # of the id
    whole_kind: str  # the `object` of a whole response
    chunk_kind: str  # ... and of a chunk

    def __init__(self, model: str, fingerprint: str, *, has_usage: bool = False) -> None:
        self._about = {
            "id": f"{self.prefix}-{uuid4().hex}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._model = model
        self._has_usage = has_usage

    def whole(self, answers: Iterable[Answer], usage: dict[str, Any]) -> dict[str, Any]:
        """The response with all answers, which have ended."""
        choices = [self._choice(answer) for answer in answers]
        return {**self._about, "object": self.whole_kind, "choices": choices, "usage": usage}

    @abstractmethod
    def first(self, answer: Answer) -> list[dict[str, Any]]:
        """The chunks with which an answer begins."""

    def chunk(self, answer: Answer, delta: Delta) -> dict[str, Any]:
        """The chunk of a delta."""
        choice = self._piece(answer, delta)
        if isinstance(delta, EndDelta):
            choice |= {"finish_reason": delta.finish_reason, "gac": self._ensemble_part(delta)}
        return self._chunk([choice], None)

    def last(self, usage: dict[str, Any]) -> list[dict[str, Any]]:
        """The chunk with the usage, if it was asked for."""
        return [self._chunk([], usage)] if self._has_usage else []

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        chunk = {**self._about, "object": self.chunk_kind, "choices": choices}
        return {**chunk, "usage": usage} if self._has_usage else chunk

    def _ensemble_part(self, end: EndDelta) -> dict[str, Any]:
        """What OpenAI's API has no field for: steps, seed, each member's tokens."""
        about = end_dict(end, self._model)
        return {name: about[name] for name in ("members", "steps", "fused_steps", "seed")}

    @abstractmethod
    def _choice(self, answer: Answer) -> dict[str, Any]: ...

    @abstractmethod
    def _piece(self, answer: Answer, delta: Delta) -> dict[str, Any]: ...


class ChatFormat(Format):
    """The objects of a chat."""

    prompt_field = "messages"
    prefix = "chatcmpl"
    whole_kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def first(self, answer: Answer) -> list[dict[str, Any]]:
        """The role."""
        role = {"role": "assistant", "content": "", "refusal": None}
        return [self._chunk([self._piece_of(answer, role, None)], None)]

    def _choice(self, answer: Answer) -> dict[str, Any]:
        assert answer.end is not None
        read = answer.reader
        text = read.text if read.text or not read.calls else None
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if thought := read.thought.strip():
            message |= {"reasoning_content": thought, "reasoning": thought}
        if read.calls:
            message["tool_calls"] = [
                {"id": c.id, "type": "function", "function": _function(c.name, c.arguments)}
                for c in read.calls
            ]
        return {
            "index": answer.index,
            "message": message,
            "logprobs": _logprobs(answer.take_tokens()),
            "finish_reason": answer.end.finish_reason,
            "gac": self._ensemble_part(answer.end),
        }

    def _piece(self, answer: Answer, delta: Delta) -> dict[str, Any]:
        tokens = None if isinstance(delta, ThoughtDelta) else answer.take_tokens()
        return self._piece_of(answer, _delta(delta), tokens)

    def _piece_of(
        self, answer: Answer, delta: dict[str, Any], tokens: list[dict[str, Any]] | None
    ) -> dict[str, Any]:
        logprobs = _logprobs(tokens) if tokens else None
        piece = {"index": answer.index, "delta": delta, "logprobs": logprobs}
        return {**piece, "finish_reason": None}


def _delta(delta: Delta) -> dict[str, Any]:
    match delta:
        case ThoughtDelta():  # by both names that servers have given it
            return {"reasoning_content": delta.text, "reasoning": delta.text}
        case TextDelta():
            return {"content": delta.text}
        case CallDelta(name=None):
            more = {"index": delta.index, "function": {"arguments": delta.arguments}}
            return {"tool_calls": [more]}
        case CallDelta():
            function = _function(delta.name, delta.arguments)
            call = {"index": delta.index, "id": delta.id, "type": "function", "function": function}
            return {"tool_calls": [call]}
        case EndDelta():
            return {}


def _function(name: str | None, arguments: str) -> dict[str, str | None]:
    return {"name": name, "arguments": arguments}


def _logprobs(tokens: list[dict[str, Any]] | None) -> dict[str, Any] | None:
    return None if tokens is None else {"content": tokens, "refusal": None}


class CompletionFormat(Format):
    """The objects of a completion."""

    prompt_field = "prompt"
    prefix = "cmpl"
    whole_kind = "text_completion"
    chunk_kind = "text_completion"

    def first(self, answer: Answer) -> list[dict[str, Any]]:  # noqa: ARG002
        """Nothing: a text has no role."""
        return []

    def _choice(self, answer: Answer) -> dict[str, Any]:
        assert answer.end is not None
        return {
            "index": answer.index,
            "text": answer.reader.text,
            "logprobs": _legacy_logprobs(answer),
            "finish_reason": answer.end.finish_reason,
            "gac": self._ensemble_part(answer.end),
        }

    def _piece(self, answer: Answer, delta: Delta) -> dict[str, Any]:
        text = delta.text if isinstance(delta, TextDelta) else ""
        logprobs = _legacy_logprobs(answer)
        piece = {"index": answer.index, "text": text, "logprobs": logprobs}
        return {**piece, "finish_reason": None}


def _legacy_logprobs(answer: Answer) -> dict[str, Any] | None:
    """As completions have them: four lists side by side; offsets count characters."""
    offset = answer.characters_taken
    tokens = answer.take_tokens()
    if tokens is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [
            {top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens
        ],
        "text_offset": offsets,
    }
