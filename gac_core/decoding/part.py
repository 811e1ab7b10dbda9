"""The part of a turn that a request writes: the rest of a text, a thought, or an answer."""

from dataclasses import dataclass
from typing import Final

import torch

from gac_core.chat.prompt import TURN_MARKS
from gac_core.members.base import Member

_BREAKS: Final = (b"\n", b"\n\n")
_NEXT_TURNS: Final = tuple(blank + mark.encode() for mark in TURN_MARKS for blank in _BREAKS)


@dataclass(frozen=True)
class Part:
    """What a request writes, and how members end it.

    Attributes:
        is_chat: whether it is part of a chat.
        begins_turn: whether it begins a turn, so that a leading space may be a matter of spelling.
        is_thought: whether it is a thought, which END ends as a close tag does.
        close_ids: by member, the id of the tag with which it ends a thought; None without one.
        close_texts: tags that end a thought where members spell them out.
        reserved: by member, the ids of its context that are kept for what follows.
        drawn: the number of rows that were chosen in the turn before.

    """

    is_chat: bool = False
    begins_turn: bool = False
    is_thought: bool = False
    close_ids: tuple[int | None, ...] = ()
    close_texts: tuple[str, ...] = ()
    reserved: tuple[int, ...] = ()
    drawn: int = 0

    def next_turns(self, index: int, member: Member) -> tuple[bytes, ...]:
        """Texts with which a member begins what follows this part, for want of a token that ends.

        Args:
            index: of the member.
            member: itself.

        """
        if self.is_thought and self.close_ids[index] is None:
            tags = [tag.encode() for tag in self.close_texts]
            return tuple(blank + tag for tag in tags for blank in (b"", *_BREAKS))
        is_answer = self.is_chat and not self.is_thought
        return _NEXT_TURNS if is_answer and member.reads_transcript else ()

    def room(self, index: int, member: Member) -> int | None:
        """The most ids that a member can read in this part; None if there is no limit."""
        limit = member.scorer.context_size
        if limit is None or not self.reserved:
            return limit
        return limit - self.reserved[index]

    def ending(self, index: int, member: Member, logits: torch.Tensor) -> torch.Tensor:
        """A member's logits with its close tag counted as END.

        Args:
            index: of the member.
            member: itself.
            logits: (vocab_size,).

        """
        tag = self.close_ids[index] if self.is_thought else None
        ends = member.tokenizer.vocabulary.end_ids
        if tag is None or tag in ends:
            return logits
        end = min(ends)
        logits = logits.clone()
        logits[end] = torch.logaddexp(logits[end], logits[tag])
        logits[tag] = -torch.inf
        return logits


TEXT: Final = Part()
ANSWER: Final = Part(is_chat=True, begins_turn=True)
