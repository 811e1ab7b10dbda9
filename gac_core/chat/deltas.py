"""From the steps of an answer to its deltas: thoughts, text, calls of tools, the end.

Everything that is to be decided about an answer as it comes is decided here; what hands it on (an
adapter, a server) only translates. A delta is what OpenAI's API has in ``choices[].delta``: for a
`TextDelta` ``content``, for a `ThoughtDelta` what servers call ``reasoning_content``, for a
`CallDelta` one of the ``tool_calls``; an `EndDelta` has the ``finish_reason``.
"""

import json
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from gac_core.chat.call_reader import Call, CallPart, CallReader, Piece
from gac_core.chat.response_format import AnswerForm
from gac_core.errors import AnswerCutError
from gac_core.outputs import Outcome, Step


@dataclass(frozen=True)
class TextDelta:
    """The next characters of the answer's text, one or more."""

    text: str


@dataclass(frozen=True)
class ThoughtDelta:
    """The next characters of the thought before the answer, one or more."""

    text: str


@dataclass(frozen=True)
class CallDelta:
    """The next characters of a call.

    Attributes:
        index: of the call in the answer, from 0.
        id: of the call, unique; None but in its first delta.
        name: of the function; None but in the first delta of a call.
        arguments: the next characters of the JSON of its arguments, perhaps none.

    """

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True)
class EndDelta:
    """The end of the answer; the last delta.

    Attributes:
        finish_reason: "tool_calls" for an answer that calls tools and was not cut; else that of
            the outcome.
        outcome: how the answer ended.

    """

    finish_reason: Literal["stop", "length", "tool_calls"]
    outcome: Outcome


Delta = ThoughtDelta | TextDelta | CallDelta | EndDelta


@dataclass
class ToolCall:
    """A call, as far as it is written.

    Attributes:
        id: unique.
        name: of the function.
        arguments: the JSON of its arguments.

    """

    id: str
    name: str
    arguments: str


class DeltaReader:
    """Reads one answer, step by step.

    Args:
        form: of the answer; calls are read only where there are functions to call.

    Attributes:
        thought: what was thought before it so far.
        text: the answer's text so far.
        calls: its calls so far.

    """

    def __init__(self, form: AnswerForm) -> None:
        self.thought = ""
        self.text = ""
        self.calls: list[ToolCall] = []
        self._form = form
        self._reader = None
        if form.callable_functions:
            self._reader = CallReader(comes_first=form.schema is not None)

    def push(self, step: Step) -> list[Delta]:
        """The deltas that are certain with this step; the last step's end with an `EndDelta`.

        Raises:
            AnswerCutError: the budget ended the answer within a call that the members chose to
                make; executing it could do anything. A call that there has to be, as for
                structured output, is complete, and the finish reason is "length".

        """
        deltas: list[Delta] = []
        if step.thought:
            self.thought += step.thought
            deltas.append(ThoughtDelta(step.thought))
        deltas += [delta for piece in self._pieces(step) if (delta := self._delta(piece))]
        if step.outcome is not None:
            deltas.append(self._end(step.outcome))
        return deltas

    def _pieces(self, step: Step) -> list[Piece]:
        if self._reader is None:
            return [step.text] if step.text else []
        pieces = self._reader.push(step.text)
        if step.outcome is not None:
            pieces += self._reader.end(is_cut=step.outcome.finish_reason == "length")
        return pieces

    def _delta(self, piece: Piece) -> Delta | None:
        if isinstance(piece, CallPart):
            return self._call_delta(piece.name, piece.arguments)
        if isinstance(piece, Call):
            if piece.was_streamed:
                return None
            if piece.name is not None:  # written in another form, so it comes as a whole
                return self._call_delta(piece.name, json.dumps(piece.arguments, ensure_ascii=False))
            piece = piece.text  # it is no call
        self.text += piece
        return TextDelta(piece)

    def _call_delta(self, name: str | None, arguments: str) -> CallDelta:
        if name is None:
            self.calls[-1].arguments += arguments
            return CallDelta(len(self.calls) - 1, None, None, arguments)
        call = ToolCall(f"call_{uuid4().hex}", name, arguments)
        self.calls.append(call)
        return CallDelta(len(self.calls) - 1, call.id, name, arguments)

    def _end(self, outcome: Outcome) -> EndDelta:
        reason = outcome.finish_reason
        if self.calls and reason == "length" and self._form.choice == "auto":
            raise AnswerCutError(
                f"the budget of {outcome.usage.steps} steps ended the answer within a call of "
                f"{self.calls[-1].name!r}; raise max_tokens"
            )
        return EndDelta("tool_calls" if self.calls and reason == "stop" else reason, outcome)
