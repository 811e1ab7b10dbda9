"""The space before an answer (dummy prefix), which for some members is only a matter of spelling.

Many SentencePiece models begin a chat answer with "▁Hello", byte-level ones with "Hello". So at the
first step of a chat answer " x" and "x" are one unit, and each member writes the spelling that it
prefers. In an answer that continues a raw text, a space is text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from gac_core.members.base import Member
from gac_core.tokens.spaces import BYTES, PrimaryRows, Space
from gac_core.tokens.union import UnionVocabulary


@dataclass(frozen=True)
class Spelling:
    """How members spell a unit that was chosen.

    Attributes:
        unit: without a leading space that is only a spelling.
        leading_spaces: what each member writes before it: a space, or nothing.
        hides_leading_space: whether steps record units without such a space.

    """

    unit: bytes
    leading_spaces: Sequence[bytes]
    hides_leading_space: bool = False

    def without_space(self, unit: bytes) -> bytes:
        """Any unit as the step records it: without a leading space, if that is a spelling."""
        return unit.removeprefix(b" ") if self.hides_leading_space and len(unit) > 1 else unit


class LeadingSpace:
    """Whether a leading space is only a spelling at the first step, and which members write it.

    Args:
        members: of the ensemble.
        units: what answers are made of; see `SharedState`.
        primary: the primary's index.
        begins_turn: whether the answer begins a turn.
        by_bytes: whether members read the answer byte by byte, so that an indent stands behind the
            space that is a spelling.

    """

    def __init__(
        self,
        members: Sequence[Member],
        units: UnionVocabulary,
        primary: int,
        *,
        begins_turn: bool,
        by_bytes: bool,
    ) -> None:
        self._by_bytes = by_bytes
        self._members = members
        self._units = units
        self._primary = primary
        self._is_first_step = begins_turn
        self._views: dict[int, torch.Tensor] = {}  # by member, before " x" is merged into "x"

    def pass_first_step(self) -> None:
        """The first step was emitted: from here on a space is text."""
        self._is_first_step = False
        self._views.clear()

    def copy(self) -> Self:
        """A copy for a fork of the answer."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._views = dict(self._views)
        return other

    @property
    def members_differ(self) -> bool:
        """Whether only some members' templates write the space, so that " x" and "x" are one."""
        return self._is_first_step and len({m.leading_space for m in self._members}) > 1

    def note(self, member: int, view: torch.Tensor) -> None:
        """Keep a member's distribution over the union, from which its spelling is read."""
        if self.members_differ:
            self._views[member] = view

    def merge(self, view: torch.Tensor) -> torch.Tensor:
        """A distribution over the union with the mass of " x" moved to "x", (size,)."""
        if not self.members_differ:
            return view
        with_space, without = self._units.leading_space_pairs
        return view.index_add(0, without, view[with_space]).index_fill(0, with_space, 0.0)

    def is_spelling(self, space: Space) -> bool:
        """Whether a leading space is only a spelling for the members that choose from a space."""
        if not self._is_first_step or space is BYTES:
            return False
        if isinstance(space, PrimaryRows):
            return self._members[self._primary].leading_space
        return self._members[0].leading_space or self.members_differ

    def allow(self, allowed: torch.Tensor, space: Space) -> torch.Tensor:
        """The units a grammar allows, where " x" is a spelling of "x". (union.size,) of bool"""
        if not self.is_spelling(space):
            return allowed
        with_space, without = self._units.leading_space_pairs
        moved = allowed[without]
        allowed = allowed.index_fill(0, self._units.leading_space_rows, value=False)
        allowed[with_space] = moved
        return allowed

    def spelling(self, space: Space, unit: bytes) -> Spelling:
        """How members spell a unit that was chosen from a space."""
        count = len(self._members)
        if not self._is_first_step:
            return Spelling(unit, [b""] * count)
        if space is BYTES:
            return Spelling(unit, [b" " if m.leading_space else b"" for m in self._members])
        if isinstance(space, PrimaryRows):
            return self._of_primary(unit)
        leading_spaces = self._of_all(unit)
        has_space = any(leading_spaces)
        text = unit.removeprefix(b" ") if has_space else unit
        return Spelling(text, leading_spaces, has_space)

    def _of_primary(self, unit: bytes) -> Spelling:
        """Of a unit that the primary chose alone; the others begin as their templates do."""
        primary = self._primary
        has_space = self._members[primary].leading_space and unit.startswith(b" ")
        text = unit.removeprefix(b" ") if has_space else unit
        leading_spaces = [b" " if has_space else b""] * len(self._members)
        if self.members_differ:
            for m, member in enumerate(self._members):
                if m != primary:
                    is_spelt = not self._by_bytes and text.startswith(b" ")
                    adds_space = member.leading_space and not is_spelt
                    leading_spaces[m] = b" " if adds_space else b""
        return Spelling(text, leading_spaces, has_space)

    def _of_all(self, unit: bytes) -> list[bytes]:
        """The space that each member writes before the first unit, which all chose."""
        count = len(self._members)
        if not self.members_differ:
            same = self._members[0].leading_space and unit.startswith(b" ")
            return [b" " if same else b""] * count
        text = unit.removeprefix(b" ")
        if text.startswith(b" "):  # an indent, which is text
            return [b""] * count
        with_space, without = self._units.rows.get(b" " + text), self._units.rows.get(text)
        leading_spaces = []
        for m, member in enumerate(self._members):
            if with_space is not None and without is not None and m in self._views:
                prefers_space = bool(self._views[m][with_space] > self._views[m][without])
            else:
                prefers_space = member.leading_space
            leading_spaces.append(b" " if prefers_space else b"")
        return leading_spaces
