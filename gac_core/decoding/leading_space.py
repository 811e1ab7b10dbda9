"""The space that may stand before an answer: for some members it is only a way to write it.

Many SentencePiece models open a chat answer with "▁Hello" where byte-level ones open with "Hello".
At the first step of a chat " x" and "x" are therefore one unit, and each member writes the one that
it prefers. In a raw text that goes on, a space is text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from gac_core.members.base import Member
from gac_core.tokens.spaces import BYTES, PrimaryRows, Space
from gac_core.tokens.union import UnionVocabulary


@dataclass(frozen=True)
class Opening:
    """How a unit opens an answer.

    Attributes:
        core: the unit without a space that is only a way to write it.
        leads: what each member writes before that: a space, or nothing.
        hides_space: whether units are shown without such a space.

    """

    core: bytes
    leads: Sequence[bytes]
    hides_space: bool = False

    def show(self, unit: bytes) -> bytes:
        """A unit as it is shown in a step."""
        return unit.removeprefix(b" ") if self.hides_space and len(unit) > 1 else unit


class LeadingSpace:
    """Whether and how a space may stand before an answer, until its first step is emitted.

    Args:
        members: of the ensemble.
        union: of their vocabularies.
        is_chat: whether the answer begins a turn of its own.

    """

    def __init__(self, members: Sequence[Member], union: UnionVocabulary, *, is_chat: bool) -> None:
        self._members = members
        self._union = union
        self._is_open = is_chat
        self._views: dict[int, torch.Tensor] = {}  # of each member, " x" and "x" still apart

    def close(self) -> None:
        """The first step was emitted: from here on a space is text."""
        self._is_open = False
        self._views.clear()

    def copy(self) -> Self:
        """Another one that goes its own way."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._views = dict(self._views)
        return other

    @property
    def _differs(self) -> bool:
        """Whether members' templates differ in how they open, so that " x" and "x" are one."""
        return self._is_open and len({m.leading_space for m in self._members}) > 1

    def note(self, member: int, view: torch.Tensor) -> None:
        """Keep a member's distribution over the union, by which it prefers a spelling."""
        if self._differs:
            self._views[member] = view

    def merge(self, view: torch.Tensor) -> torch.Tensor:
        """A distribution over the union with the mass of " x" moved to "x", (size,)."""
        if not self._differs:
            return view
        spaced, plain = self._union.spaced_pairs
        return view.index_add(0, plain, view[spaced]).index_fill(0, spaced, 0.0)

    def is_spelling(self, space: Space) -> bool:
        """Whether a leading space is only a way to open the answer, for who decides this step."""
        if not self._is_open or space is BYTES:
            return False
        if isinstance(space, PrimaryRows):
            return self._members[self._union.primary].leading_space
        return self._members[0].leading_space or self._differs

    def allow(self, allowed: torch.Tensor, space: Space) -> torch.Tensor:
        """Which units a grammar allows, where " x" is a way to write "x". (size of the union,)"""
        if not self.is_spelling(space):
            return allowed
        spaced, plain = self._union.spaced_pairs
        mapped = allowed[plain]
        allowed = allowed.index_fill(0, self._union.spaced_rows, value=False)
        allowed[spaced] = mapped
        return allowed

    def opening(self, space: Space, unit: bytes) -> Opening:
        """How the answer goes on with a unit that was chosen from a space."""
        count = len(self._members)
        if not self._is_open:
            return Opening(unit, [b""] * count)
        if space is BYTES:
            return Opening(unit, [b" " if m.leading_space else b"" for m in self._members])
        if isinstance(space, PrimaryRows):
            return self._of_primary(unit)
        leads = self._of_all(unit)
        is_spaced = any(leads)
        return Opening(unit.removeprefix(b" ") if is_spaced else unit, leads, is_spaced)

    def _of_primary(self, unit: bytes) -> Opening:
        """Of a unit that the primary chose alone; the others open as they usually do."""
        primary = self._union.primary
        is_spaced = self._members[primary].leading_space and unit.startswith(b" ")
        core = unit.removeprefix(b" ") if is_spaced else unit
        leads = [b" " if is_spaced else b""] * len(self._members)
        if self._differs:
            for m, member in enumerate(self._members):
                if m != primary:
                    begins = member.leading_space and not core.startswith(b" ")
                    leads[m] = b" " if begins else b""
        return Opening(core, leads, is_spaced)

    def _of_all(self, unit: bytes) -> list[bytes]:
        """The space each member writes before an answer that opens with a unit all chose."""
        count = len(self._members)
        if not self._differs:
            same = self._members[0].leading_space and unit.startswith(b" ")
            return [b" " if same else b""] * count
        core = unit.removeprefix(b" ")
        if core.startswith(b" "):  # an indent, not a way to open
            return [b""] * count
        spaced, plain = self._union.rows.get(b" " + core), self._union.rows.get(core)
        leads = []
        for m, member in enumerate(self._members):
            if spaced is not None and plain is not None and m in self._views:
                prefers_space = bool(self._views[m][spaced] > self._views[m][plain])
            else:
                prefers_space = member.leading_space
            leads.append(b" " if prefers_space else b"")
        return leads
