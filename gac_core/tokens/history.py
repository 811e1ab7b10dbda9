"""A member's own token ids for prompt and answer so far."""

from collections.abc import Sequence
from copy import copy
from typing import Literal, Self

from gac_core.tokens.tokenizer import ByteTokenizer


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """The number of ids, or of characters, in the longest common prefix."""
    count = min(len(a), len(b))
    if list(a[:count]) == list(b[:count]):
        return count
    return next(i for i in range(count) if a[i] != b[i])


class History:
    """What one member has read, in its own ids.

    A unit that other members chose is taken in one of two ways. *append* (as published): the unit's
    own token, or the member's own tokens for those bytes. *reencode*: once the member was given a
    unit that it would not have written (a foreign one), its whole answer so far is encoded anew
    after each unit, as it would write it itself; members given foreign units begin to repeat them.
    *always*: its answer is encoded anew after any unit, as members need it that read bytes.

    Args:
        prompt_ids: the member's prompt; never changed.
        tokenizer: how the member writes.
        reencode: whether units are taken the second way, or "always".
        context_size: the most ids the member can read; None if there is no limit.

    Attributes:
        prompt_length: the number of ids of the prompt.
        context_size: the most ids the member can read, or None.
        answer: the bytes of the answer so far, as this member has them.

    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        tokenizer: ByteTokenizer,
        *,
        reencode: bool | Literal["always"],
        context_size: int | None = None,
    ) -> None:
        self.prompt_length = len(prompt_ids)
        self.context_size = context_size
        self.answer = b""
        self._ids = list(prompt_ids)
        self._tokenizer = tokenizer
        self._reencode = reencode
        self._has_foreign = reencode == "always"
        self._is_stale = False  # whether the answer must be encoded anew before its ids are used
        self._encoded = b""  # the beginning of the answer that was encoded so far

    def copy(self) -> Self:
        """A copy to which other units can be appended."""
        return copy(self)  # nothing in it is changed in place

    @property
    def ids(self) -> list[int]:
        """Prompt and answer so far; a list of its own after each unit."""
        if self._is_stale:
            prompt, answer = self._ids[: self.prompt_length], self._ids[self.prompt_length :]
            known = answer if self._encoded else []  # ids appended one by one are no encoding
            answer = self._tokenizer.encode_open(self.answer, self._encoded, known)
            self._ids = [*prompt, *answer]
            self._encoded = self.answer
            self._is_stale = False
        return self._ids

    def encoded(self, answer: bytes) -> list[int]:
        """Prompt and another answer, as the member itself would write it."""
        return [*self._ids[: self.prompt_length], *self._tokenizer.encode_open(answer)]

    @property
    def answer_length(self) -> int:
        """The number of ids of the answer."""
        return len(self.ids) - self.prompt_length

    @property
    def budget(self) -> int | None:
        """The number of further ids that the context holds; None if there is no limit."""
        return None if self.context_size is None else self.context_size - len(self.ids)

    def fits(self, more: int = 0) -> bool:
        """Whether the context holds the ids, even after `more` further bytes."""
        if self.context_size is None:
            return True
        # No token is shorter than a byte, so most often the ids need not be encoded to know.
        at_most = self.prompt_length + len(self.answer) + more
        return at_most <= self.context_size or (not more and len(self.ids) <= self.context_size)

    def append(self, unit: bytes, token: int | None = None, *, is_foreign: bool = True) -> None:
        """Extend the answer by one unit.

        Args:
            unit: its bytes.
            token: the id that the member itself chose for it, if it did.
            is_foreign: whether the member would have written something else.

        """
        self.answer += unit
        self._has_foreign = self._has_foreign or is_foreign
        if self._reencode and self._has_foreign:
            self._is_stale = True  # encoded when next asked about, once for many units
        elif unit or token is not None:
            own = self._tokenizer.encode_unit(unit) if token is None else (token,)
            self._ids = [*self._ids, *own]
