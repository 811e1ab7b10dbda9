"""A turn in which members may think before they answer: whether they do, the thought, the answer.

A thought is a text of its own, written like an answer, in which END and a member's close tag are
the same row. Before and after it each member reads its own tags; one that has none reads them as
text. So members that think and members that do not write thought and answer together, in any space
and with any method; a grammar and stop strings begin with the answer.

Whether there is a thought is for the members to say that have tags: it is opened if these, by their
weights, rather open it than not, as their templates or their first tokens show.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import torch

from gac_core.chat.thoughts import AS_TEXT, PromptEnd, ThinkTags
from gac_core.decoding.part import ANSWER, Part
from gac_core.decoding.request import Request
from gac_core.members.base import Answers, Ask, Member, Query
from gac_core.outputs import Step
from gac_core.sampling_params import SamplingParams
from gac_core.tokens.history import History

_LIKELY: Final = 0.5  # the share of weight with which a thought is opened


@dataclass(frozen=True)
class TagIds:
    """A member's think tags in its own ids.

    Attributes:
        thinks: whether it has tags of its own.
        opens: what stands before a thought.
        tag: of these, the ids up to the tag itself, by which it is seen whether a member thinks.
        closes: what stands between a thought and the answer.
        closes_line: the same after a thought that ends with a line break.
        skips: what stands before an answer without a thought.
        close_id: the added token that ends a thought; None if the tag is spelled out.
        close_text: the tag.

    """

    thinks: bool
    opens: tuple[int, ...]
    tag: tuple[int, ...]
    closes: tuple[int, ...]
    closes_line: tuple[int, ...]
    skips: tuple[int, ...]
    close_id: int | None
    close_text: str

    @classmethod
    def of(cls, member: Member, tags: ThinkTags | None) -> Self:
        """The ids of a member's tags, or of those that it reads as text if it has none."""
        own, tokenizer = tags or AS_TEXT, member.tokenizer

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode_markup(text) if tags else tokenizer.encode(text.encode()))

        closes = ids(own.closes)
        data = tokenizer.vocabulary.token_bytes
        return cls(
            tags is not None,
            ids(own.opens),
            ids(own.opens.rstrip()),
            closes,
            ids(own.closes.lstrip("\n")),
            ids(own.skips) if tags else (),
            next((i for i in closes if not data[i]), None) if tags else None,
            own.closes.strip(),
        )

    def before_thought(self, end: PromptEnd) -> tuple[int, ...]:
        """What stands between a prompt that ends so and a thought."""
        return () if end == "open" else self.opens

    def before_answer(self, end: PromptEnd) -> tuple[int, ...]:
        """What stands between a prompt that ends so and an answer without a thought."""
        return {"open": self.closes, "closed": (), "none": self.skips}[end]


@dataclass(frozen=True)
class Written:
    """How much was written of a part.

    Attributes:
        steps: that were emitted.
        units: the primary's tokens, without an end.
        tokens: each member's own.

    """

    steps: int = 0
    units: int = 0
    tokens: tuple[int, ...] = ()

    def tokens_of(self, member: int) -> int:
        """A member's own tokens."""
        return self.tokens[member] if self.tokens else 0

    @classmethod
    def by(cls, request: Request, last: Step | None, tokens: tuple[int, ...] = ()) -> Self:
        """What a request has written.

        Args:
            request: the request.
            last: its last step; None if it has not ended.
            tokens: each member's own, if only these count of its history.

        """
        if tokens:
            return cls(request.position, tokens[request.primary], tokens)
        tokens = tuple(history.answer_length for history in request.histories)
        units = tokens[request.primary]
        if request.space == "bytes":  # a step is a token, though its encoding may have others
            units = request.position - (last is not None and last.is_end)
        return cls(request.position, units, tokens)


class Turn:
    """A turn of members some of whom can think.

    Args:
        tags: of each member.
        prompts: each member's ids of the chat.
        ends: what each prompt has of a thought at its end.
        answer: the request of the answer if nobody thinks.
        make: makes the request of a part, of the members' ids before it.

    Attributes:
        request: of the answer without a thought.
        prompt_lengths: each member's number of ids of the prompt.
        thought: what was written of a thought.

    """

    def __init__(
        self,
        tags: Sequence[TagIds],
        prompts: Sequence[Sequence[int]],
        ends: Sequence[PromptEnd],
        answer: Request,
        make: Callable[[Sequence[Sequence[int]], SamplingParams, Part], Request],
    ) -> None:
        self.request = answer
        self.prompt_lengths = tuple(map(len, prompts))
        self.thought = Written()
        self._members = answer.members
        self._tags = tags
        self._prompts = prompts
        self._ends = ends
        self._opened = [
            [*ids, *own.before_thought(end)]
            for ids, end, own in zip(prompts, ends, tags, strict=True)
        ]
        self._sampling = answer.sampling
        constraint = answer.answer.constraint
        # The steps and the bytes that the answer needs at least.
        steps, data = (0, 0) if constraint is None else constraint.needed
        self._most = _most(self._sampling, steps)
        spelled = {own.close_text for own in tags if own.close_id is None}
        self._part = Part(
            is_chat=True,
            is_thought=True,
            close_ids=tuple(own.close_id for own in tags),
            close_texts=tuple(sorted(spelled)),
            reserved=tuple(max(len(own.closes), len(own.closes_line)) + 2 + data for own in tags),
        )
        self._make = make

    # ------------------------------------------------ whether to think

    def begin(self) -> Generator[Ask, Answers, Request]:
        """Ask whether members think; the request of the thought, or of the answer without one."""
        if not (yield from self._thinks()):
            return self.request
        sampling = {"max_new_tokens": self._most, "stop": (), "grammar": None}
        return self._make(self._opened, self._sampling.model_copy(update=sampling), self._part)

    @property
    def _may_think(self) -> bool:
        """Whether steps, and each member's context, have room for a thought and an answer."""
        rooms = [self._part.room(m, member) for m, member in enumerate(self._members)]
        return self._most > 0 and all(
            room is None or len(ids) <= room for ids, room in zip(self._opened, rooms, strict=True)
        )

    def _thinks(self) -> Generator[Ask, Answers, bool]:
        if self._sampling.thinking != "auto" or not self._may_think:
            return self._sampling.thinking == "on" and self._may_think
        voters = [m for m, tags in enumerate(self._tags) if tags.thinks]
        asked = {m: self._query(m) for m in voters if self._ends[m] == "none" and self._tags[m].tag}
        answers = (yield Ask({m: (query,) for m, query in asked.items()})) if asked else {}
        for_it = sum(
            self._members[m].weight
            * (
                self._prob_of_tag(m, answers[m][0].logits)
                if m in asked
                else float(self._ends[m] == "open")
            )
            for m in voters
        )
        return for_it >= _LIKELY * sum(self._members[m].weight for m in voters)

    def _query(self, member: int) -> Query:
        tag = self._tags[member].tag
        return Query([*self._prompts[member], *tag], len(tag) + 1, whole=True)

    def _prob_of_tag(self, member: int, logits: torch.Tensor) -> float:
        """The probability of the least sure id of an open tag, by the logits before each.

        Greedy choice writes the tag if this is more than a half, however many ids it has.
        """
        tag = self._tags[member].tag
        probs = logits[: len(tag)].softmax(-1)
        return min(float(probs[n, i]) for n, i in enumerate(tag))

    # ------------------------------------------------ after a thought

    def follow(self, thought: Request, last: Step, tag: str) -> Request | None:
        """The request of the answer after a thought; None if no step is left for one.

        Args:
            thought: the request that wrote it.
            last: its last step.
            tag: that members spelled out at its end, or the beginning of one; perhaps empty.

        """
        written = [_without_tag(history, tag) for history in thought.histories]
        lengths = tuple(
            len(ids) - history.prompt_length
            for (ids, _), history in zip(written, thought.histories, strict=True)
        )
        self.thought = Written.by(thought, last, lengths if tag else ())
        left = self._sampling.max_new_tokens - self.thought.steps
        if left <= 0:
            return None
        # Of a last step of more ids than its context has left, a member reads the beginning.
        rooms = [thought.part.room(m, member) for m, member in enumerate(self._members)]
        prompts = [
            [
                *(ids if room is None else ids[: room + 1]),
                *(tags.closes_line if text.endswith(b"\n") else tags.closes),
            ]
            for (ids, text), tags, room in zip(written, self._tags, rooms, strict=True)
        ]
        return self._make(
            prompts,
            self._sampling.model_copy(update={"max_new_tokens": left}),
            replace(ANSWER, begins_turn=False, drawn=thought.answer.drawn),
        )


def _most(sampling: SamplingParams, needed: int) -> int:
    """The steps that a thought may have before an answer that needs some itself."""
    most = sampling.max_new_tokens - needed
    limit = sampling.max_thought_tokens
    return most if limit is None else min(most, limit)


def _without_tag(history: History, tag: str) -> tuple[list[int], bytes]:
    """A member's ids of prompt and thought, and the thought's bytes, without a spelled tag."""
    if not tag:
        return history.ids, history.answer
    text, _, _ = history.answer.rpartition(tag.encode())
    return history.encoded(text), text
