"""One request in flight: its method's generator, its text, and how it ends.

Drivers differ in how they compute the logits; what happens with a step is the same for all of them
and happens here.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Final

import torch

from gac_core.chat.prompt import TURN_MARKS
from gac_core.decoding.detokenizer import StopMatcher, TextDecoder, Trimmer, TurnMatcher
from gac_core.decoding.drafting import Plan, drafted
from gac_core.decoding.request import Decoder, Method, Request
from gac_core.decoding.turn import Turn, Written
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
        work: the request it decodes, or the turn of several.
        sink: called with every step, with text and outcome filled in.

    """

    def __init__(self, method: Method, work: Request | Turn, sink: Sink) -> None:
        self._method = method
        self._sink = sink
        self._fused_steps = 0
        self._turn = work if isinstance(work, Turn) else None
        self._opening = None if self._turn is None else self._turn.begin()
        self._begin(work.request if isinstance(work, Turn) else work)

    def _begin(self, request: Request) -> None:
        """Begin a part of the turn: a thought, or the answer."""
        self.request = request
        self._decoder = _decode(self._method, request)
        self._next: Request | None = None  # of the part that follows
        self._text = TextDecoder()
        part, sampling = request.part, request.sampling
        # A stop string ends the free text beside tools, but cuts no call in half.
        until = CALL_OPENS if sampling.grammar is not None else ""
        self._stops = StopMatcher((*sampling.stop, *part.close_texts), until)
        self._turns = TurnMatcher(TURN_MARKS if _ends_at_turns(request) else ())
        self._trimmer = Trimmer(trims=part.is_thought)
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
                event = self._advance({}) if self._next is None else self._go_on(self._next)
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

    def _go_on(self, request: Request) -> Ask | Step:
        """Begin the next part of the turn."""
        self.close()
        self._begin(request)
        return self._advance(None)

    def _advance(self, answers: Answers | None) -> Ask | Step:
        if self._opening is not None:
            try:
                return next(self._opening) if answers is None else self._opening.send(answers)
            except StopIteration as stop:
                self._opening, answers = None, None
                self._begin(stop.value)
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
        if reason is not None:
            text += self._turns.push(self._stops.push(self._text.flush()))
            if not self.request.part.is_thought:  # which has no part of a tag
                text += self._turns.push(self._stops.flush()) + self._turns.flush()
            if self._is_stopped:
                reason = "stop"
        if self.request.part.is_thought:
            thought = self._trimmer.push(text)
            self._next = None if reason is None else self._following(step)
            step, text = replace(step, thought=thought), ""
        if reason is None or self._next is not None:
            return replace(step, text=text)
        if self.request.part.is_thought:
            reason = "length"  # the thought left no step for an answer, however it ended
        return replace(step, text=text, outcome=self._outcome(reason, step))

    def _following(self, last: Step) -> Request | None:
        """The request of the answer after a thought, if a step is left for it."""
        assert self._turn is not None, "thoughts are parts of turns"
        return self._turn.follow(self.request, last, self._stops.matched or self._stops.held)

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

    def usage(self, last: Step | None = None) -> Usage:
        """The tokens and steps so far.

        Args:
            last: the last step of the turn; None if it has not ended.

        """
        request, turn = self.request, self._turn
        thought = Written() if turn is None else turn.thought
        answer = Written.by(request, last)
        if request.part.is_thought:  # counted by the turn once it has ended
            thought, answer = (thought if thought.steps else answer), Written()
        members = tuple(
            MemberUsage(
                member.name,
                history.prompt_length if turn is None else turn.prompt_lengths[m],
                thought.tokens_of(m) + answer.tokens_of(m),
            )
            for m, (member, history) in enumerate(
                zip(request.members, request.histories, strict=True)
            )
        )
        return Usage(
            members[request.primary].prompt_tokens,
            thought.units + answer.units,
            members,
            self._fused_steps,
            thought.steps + answer.steps,
            thought.units,
        )

    def _outcome(self, reason: FinishReason, last: Step) -> Outcome:
        seed = self.request.sampling.seed
        assert seed is not None
        is_stop = not (self._turns.found or self.request.part.is_thought)
        stop = self._stops.matched if is_stop else None
        return Outcome(reason, stop, self.usage(last), seed)


def _ends_at_turns(request: Request) -> bool:
    """Whether the answer ends where the next turn begins.

    A member without a chat template has no other way to end its answer. A grammar ends by itself.
    """
    grammar = request.sampling.grammar
    return (
        request.part.is_chat
        and not request.part.is_thought
        and any(member.reads_transcript for member in request.members)
        and (grammar is None or grammar.begins_free)
    )


def _decode(method: Method, request: Request) -> Decoder:
    yield from request.prepare()
    decoder = method(request)
    if not isinstance(decoder, Generator):
        raise MethodError(f"the method returned {decoder!r:.80}; it must be a generator function")
    config = request.config
    if config.draft is not None and request.sampling.max_new_tokens > 1:
        decoder = drafted(decoder, request, Plan(config.draft, config.draft_length))
    yield from decoder
