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
        opens: what stands between the prompt and a thought.
        tag: of these, the ids up to the tag itself, by which it is seen whether a member thinks.
        closes: what stands between a thought and the answer.
        closes_line: the same after a thought that ends with a line break.
        skips: what stands between the prompt and an answer without a thought.
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
        kinds, text = tokenizer.vocabulary.token_bytes, own.closes.strip()
        return cls(
            tags is not None,
            ids(own.opens),
            ids(own.opens.rstrip()),
            closes,
            ids(own.closes.lstrip("\n")),
            ids(own.skips) if tags else (),
            next((i for i in closes if not kinds[i]), None) if tags else None,
            text,
        )


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
            tokens: each member's own, if not those of its history.

        """
        tokens = tokens or tuple(history.answer_length for history in request.histories)
        units = tokens[request.primary]
        if request.space == "bytes":  # a step is a token, though its encoding may have others
            units = request.position - (last is not None and last.is_end)
        return cls(request.position, units, tokens)


class Turn:
    """A turn of members some of whom can think.

    Args:
        tags: of each member.
        request: the answer as if nobody thought, after the prompt.
        prompt_ends: what each prompt has of a thought at its end.
        make: makes the request of a part, of the members' ids before it.

    Attributes:
        request: of the part that is written, or that is written first.
        prompt_lengths: each member's number of ids of the prompt.
        thought: what was written of a thought.

    """

    def __init__(
        self,
        tags: Sequence[TagIds],
        request: Request,
        prompt_ends: Sequence[PromptEnd],
        make: Callable[[Sequence[Sequence[int]], SamplingParams, Part], Request],
    ) -> None:
        self.request = request
        self.prompt_lengths = tuple(history.prompt_length for history in request.histories)
        self.thought = Written()
        self._members = request.members
        self._tags = tags
        self._prompts = [history.ids for history in request.histories]
        self._ends = prompt_ends
        self._sampling = request.sampling
        constraint = request.answer.constraint
        # The steps and the bytes that the answer needs at least.
        self._needed = (0, 0) if constraint is None else constraint.needed
        self._make = make

    # ------------------------------------------------ whether to think

    def begin(self) -> Generator[Ask, Answers, Request]:
        """Ask whether members think; the request of the thought, or of the answer without one."""
        if not (yield from self._thinks()):
            prompts = self._before(lambda tags: tags.skips, "closed")
            return self._make(prompts, self._sampling, ANSWER)
        spelled = {tags.close_text for tags in self._tags if tags.close_id is None}
        part = Part(
            is_chat=True,
            is_thought=True,
            close_ids=tuple(tags.close_id for tags in self._tags),
            close_texts=tuple(sorted(spelled)),
            reserved=tuple(len(tags.closes) + 1 + self._needed[1] for tags in self._tags),
        )
        sampling = {"max_new_tokens": self._most, "stop": (), "grammar": None}
        return self._make(
            self._before(lambda tags: tags.opens, "open"),
            self._sampling.model_copy(update=sampling),
            part,
        )

    def _before(
        self, of_tags: Callable[[TagIds], tuple[int, ...]], has_it: PromptEnd
    ) -> list[list[int]]:
        """The prompts with what is still missing before thought or answer."""
        return [
            [*ids, *(() if end == has_it else of_tags(tags))]
            for ids, end, tags in zip(self._prompts, self._ends, self._tags, strict=True)
        ]

    @property
    def _most(self) -> int:
        """The steps that a thought may have."""
        most = self._sampling.max_new_tokens - self._needed[0]
        limit = self._sampling.max_thought_tokens
        return most if limit is None else min(most, limit)

    def _thinks(self) -> Generator[Ask, Answers, bool]:
        if self._sampling.thinking != "auto" or self._most <= 0:
            return self._sampling.thinking == "on" and self._most > 0
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

    def follow(self, thought: Request, last: Step, *, is_spelled: bool) -> Request | None:
        """The request of the answer after a thought; None if no step is left for one.

        Args:
            thought: the request that wrote it.
            last: its last step.
            is_spelled: whether a tag ended it that members spelled out.

        """
        written = [_without_tag(history, thought.part, is_spelled) for history in thought.histories]
        lengths = tuple(
            len(ids) - history.prompt_length
            for (ids, _), history in zip(written, thought.histories, strict=True)
        )
        self.thought = Written.by(thought, last, lengths)
        left = self._sampling.max_new_tokens - self.thought.steps
        if left <= 0:
            return None
        prompts = [
            [*ids, *(tags.closes_line if text.endswith(b"\n") else tags.closes)]
            for (ids, text), tags in zip(written, self._tags, strict=True)
        ]
        return self._make(
            prompts,
            self._sampling.model_copy(update={"max_new_tokens": left}),
            replace(ANSWER, begins_turn=False, drawn=thought.answer.drawn),
        )


def _without_tag(history: History, part: Part, is_spelled: bool) -> tuple[list[int], bytes]:
    """A member's ids of prompt and thought, and the thought's bytes, without a spelled tag."""
    if not is_spelled:
        return history.ids, history.answer
    at = min(place for tag in part.close_texts if (place := history.answer.find(tag.encode())) >= 0)
    text = history.answer[:at]
    return history.encoded(text), text
