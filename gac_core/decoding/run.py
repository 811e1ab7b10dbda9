"""One request in flight: its method's generator, its text, and how it ends.

Drivers differ in how they compute the logits; what happens with a step is the same for all of them
and happens here.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Final

import torch

from gac_core.chat.prompt import TURN_MARKS
from gac_core.decoding.detokenizer import StopMatcher, TextDecoder, TurnMatcher
from gac_core.decoding.drafting import Plan, drafted
from gac_core.decoding.request import Decoder, Method, Request
from gac_core.errors import MethodError
from gac_core.grammar.call_tags import CALL_OPENS
from gac_core.members.base import Answers, Ask
from gac_core.outputs import FinishReason, MemberUsage, Outcome, Step, Usage

# Asks without a step after which a method is refused: so many, and more for a longer answer.
_MOST_ASKS: Final = 10_000
_MOST_ASKS_PER_STEP: Final = 100  # that the answer may have

Sink = Callable[[Step], None]


class Run:
    """A method at work on a request.

    Args:
        method: makes the generator.
        request: the request it decodes.
        sink: called with every step, with text and outcome filled in.

    """

    def __init__(self, method: Method, request: Request, sink: Sink) -> None:
        self.request = request
        self._sink = sink
        self._decoder = _decode(method, request)
        self._text = TextDecoder()
        # A stop string ends the free text beside tools, but cuts no call in half.
        until = CALL_OPENS if request.sampling.grammar is not None else ""
        self._stops = StopMatcher(request.sampling.stop, until)
        self._turns = TurnMatcher(TURN_MARKS if _ends_at_turns(request) else ())
        self._fused_steps = 0
        self._steps = 0
        self._asks = 0  # since the last step

    def resume(self, answers: Answers | None = None) -> Ask | None:
        """Go on until logits are needed again.

        Args:
            answers: to the last ask; None to begin.

        Returns:
            What to compute next, or None if the request is finished.

        Raises:
            MethodError: the method broke a rule of methods.

        """
        # Inference mode is entered and left here: it must never span a yield.
        with torch.inference_mode():
            event = self._advance(answers)
            while isinstance(event, Step) or not event.queries:
                if isinstance(event, Step):
                    step = self._complete(event)
                    self._sink(step)
                    if step.outcome is not None:
                        self.close()
                        return None
                self._check(event)
                event = self._advance({})
            self._check(event)
            return event

    def _check(self, event: Ask | Step) -> None:
        """Refuse a method that breaks a rule of methods, or that asks for ever without a step."""
        if isinstance(event, Step):
            self._asks, self._steps = 0, self._steps + 1
            return
        self._asks += 1
        if self.request.position > self._steps:
            raise MethodError(
                "the method emitted a step and did not yield it; yield what emit gives"
            )
        if self._asks > _MOST_ASKS + _MOST_ASKS_PER_STEP * self.request.sampling.max_new_tokens:
            raise MethodError(
                f"the method asked {self._asks} times without a step; it must emit one"
            )
        if unknown := event.queries.keys() - set(range(len(self.request.members))):
            raise MethodError(
                f"the method asked for member {min(unknown)}, but there are "
                f"{len(self.request.members)} (from 0)"
            )

    def _advance(self, answers: Answers | None) -> Ask | Step:
        try:
            event = next(self._decoder) if answers is None else self._decoder.send(answers)
        except StopIteration:
            raise MethodError(
                "the method ended before the answer did; it must emit an end"
            ) from None
        if not isinstance(event, (Ask, Step)):
            raise MethodError(f"the method yielded {event!r:.80}; it may yield Ask and Step only")
        return event

    def close(self) -> None:
        """End the method's generator."""
        self.request.finished = True
        self._decoder.close()

    def _complete(self, step: Step) -> Step:
        """The step with the text that is certain with it and, if it is the last, the outcome."""
        self._fused_steps += step.decided_by == "ensemble"
        text = self._turns.push(self._stops.push(self._text.push(step.unit)))
        reason = self._finish_reason(step)
        if reason is None:
            return replace(step, text=text)
        text += self._turns.push(self._stops.push(self._text.flush()))
        text += self._turns.push(self._stops.flush()) + self._turns.flush()
        if self._is_stopped:
            reason = "stop"
        return replace(step, text=text, outcome=self._outcome(reason, step))

    @property
    def _is_stopped(self) -> bool:
        """Whether a stop string or the next turn was found."""
        return self._turns.found or self._stops.matched is not None

    def _finish_reason(self, step: Step) -> FinishReason | None:
        answer = self.request.answer
        if self._is_stopped:
            return "stop"
        if step.is_end:
            return "length" if answer.was_truncated else "stop"
        if answer.steps_left <= 0:
            is_complete = answer.constraint is not None and answer.constraint.is_complete
            return "stop" if is_complete and not answer.was_truncated else "length"
        return None if answer.fits() else "length"

    def usage(self, *, is_ended: bool = False) -> Usage:
        """The tokens and steps so far.

        Args:
            is_ended: whether the last step is the end, which is no token.

        """
        request = self.request
        members = tuple(
            MemberUsage(member.name, history.prompt_length, history.answer_length)
            for member, history in zip(request.members, request.histories, strict=True)
        )
        primary = members[request.primary]
        written = primary.completion_tokens
        if request.space == "bytes":  # a step is a token, though its encoding may have others
            written = request.position - is_ended
        return Usage(
            primary.prompt_tokens,
            written,
            members,
            self._fused_steps,
            request.position,
        )

    def _outcome(self, reason: FinishReason, last: Step) -> Outcome:
        seed = self.request.sampling.seed
        assert seed is not None
        stop = None if self._turns.found else self._stops.matched
        return Outcome(reason, stop, self.usage(is_ended=last.is_end), seed)


def _ends_at_turns(request: Request) -> bool:
    """Whether the answer ends where the next turn begins.

    A member without a chat template has no other way to end its answer. A grammar ends by itself.
    """
    grammar = request.sampling.grammar
    return (
        request.is_chat
        and any(member.reads_transcript for member in request.members)
        and (grammar is None or grammar.begins_free)
    )


def _decode(method: Method, request: Request) -> Decoder:
    yield from request.prepare()
    decoder = method(request)
    if not isinstance(decoder, Generator):
        raise MethodError(f"the method returned {decoder!r:.80}; it must be a generator function")
    config = request.config
    if config.draft is not None:
        decoder = drafted(decoder, request, Plan(config.draft, config.draft_length))
    yield from decoder
