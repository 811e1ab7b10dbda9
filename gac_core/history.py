"""A member's own token ids for prompt and answer so far."""

from collections.abc import Sequence

from gac_core.speller import Speller


class History:
    """What one member has read, in its own ids.

    Two ways to tell it what others wrote. *append* (as published): the unit's own token, or the
    member's own tokens for those bytes. *reencode*: once it was given a piece it would not have
    written, its whole answer so far is encoded anew after each unit, as it would write it itself;
    members handed foreign pieces begin to repeat them.

    Args:
        prompt_ids: the member's prompt; never changed.
        speller: how the member writes.
        reencode: which way.

    Attributes:
        ids: prompt and answer so far.
        answer: the bytes of the answer so far, as this member has them.

    """

    def __init__(self, prompt_ids: Sequence[int], speller: Speller, *, reencode: bool) -> None:
        self.prompt_length = len(prompt_ids)
        self.ids = list(prompt_ids)
        self.answer = b""
        self._speller = speller
        self._reencode = reencode
        self._met_foreign = False

    @property
    def answer_length(self) -> int:
        """The number of the answer's ids."""
        return len(self.ids) - self.prompt_length

    def append(self, unit: bytes, token: int | None = None, *, is_foreign: bool = True) -> None:
        """Extend the answer by one unit.

        Args:
            unit: its bytes.
            token: the id that the member itself chose for it, if it did.
            is_foreign: whether the member would have written something else.

        """
        self.answer += unit
        self._met_foreign = self._met_foreign or is_foreign
        if self._reencode and self._met_foreign:
            # In place of the old list, which a query in flight may still hold.
            self.ids = [*self.ids[: self.prompt_length], *self._speller.encode(self.answer)]
        elif unit or token is not None:
            own = self._speller.spell(unit) if token is None else (token,)
            self.ids = [*self.ids, *own]
