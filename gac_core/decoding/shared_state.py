"""The state that all requests of an ensemble share."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from gac_core.config import EnsembleConfig
from gac_core.decoding.part import ANSWER
from gac_core.decoding.scoring import FirstTokens
from gac_core.errors import CannotSpellError
from gac_core.fusion.rules import Rule
from gac_core.fusion.weighting import Weighting
from gac_core.members.base import Member
from gac_core.method_specs import SpaceName
from gac_core.tokens.spaces import PrimaryRows, Space
from gac_core.tokens.union import UnionVocabulary


@dataclass(frozen=True)
class SharedState:
    """The state that all requests of an ensemble share.

    Attributes:
        members: of the ensemble.
        union: of the members' vocabularies.
        space: in which the members meet: "tokens", "bytes" or "scored".
        units: what answers are made of: the rows of the union, bytes, or the primary's tokens.
        config: the active options, those of the method among them.
        rule: the fusion rule that `config` names.
        weighting: the class of weighting that `config` names.
        resource: what the method's spec made for all requests; None if it makes nothing.

    """

    members: tuple[Member, ...]
    union: UnionVocabulary
    space: SpaceName
    units: UnionVocabulary
    config: EnsembleConfig
    rule: Rule
    weighting: type[Weighting]
    resource: Any = None

    @cached_property
    def primary_rows(self) -> PrimaryRows:
        """The space of the steps that the primary decides alone."""
        union = self.units if self.space == "scored" else self.union
        return PrimaryRows(union, self.config.primary)

    def own_rows(self, member: int) -> Space:
        """A member's own rows, without regard to others."""
        if member not in self._own_rows:
            self._own_rows[member] = PrimaryRows(self.own_union(member), member)
        return self._own_rows[member]

    def own_union(self, member: int) -> UnionVocabulary:
        """A member's vocabulary, as if it were alone."""
        if member not in self._own_unions:
            self._own_unions[member] = UnionVocabulary([self.union.vocabularies[member]])
        return self._own_unions[member]

    @cached_property
    def _own_unions(self) -> dict[int, UnionVocabulary]:
        return {}

    @cached_property
    def _own_rows(self) -> dict[int, Space]:
        return {}

    def next_turn_ids(self, member: int) -> frozenset[int]:
        """The ids with which a member may begin the next turn, for want of an end of its own."""
        if member not in self._next_turn_ids:
            vocabulary = self.union.vocabularies[member]
            turns = ANSWER.next_turns(member, self.members[member])
            begun = {turn[:n] for turn in turns for n in range(1, len(turn) + 1)}
            self._next_turn_ids[member] = frozenset(
                i for i in vocabulary.text_ids if vocabulary.token_bytes[i] in begun
            )
        return self._next_turn_ids[member]

    @cached_property
    def _next_turn_ids(self) -> dict[int, frozenset[int]]:
        return {}

    @property
    def step_rows(self) -> Space:
        """The space of the steps that members decide together."""
        return self.primary_rows if self.space == "scored" else self.units

    def reencodes(self, member: int) -> bool | Literal["always"]:
        """How a member's history takes in units; see `History`."""
        if self.space == "tokens":
            return self.config.history == "reencode" and not self.union.is_shared
        is_primary_of_tokens = self.space == "scored" and member == self.config.primary
        return False if is_primary_of_tokens else "always"

    @cached_property
    def first_tokens(self) -> FirstTokens:
        """With which of the primary's tokens a text begins."""
        primary = self.config.primary
        return FirstTokens(self.members[primary].tokenizer, self.union.allowed(primary))

    @cached_property
    def weights(self) -> torch.Tensor:
        """The members' weights, of sum 1, (members,)."""
        weights = [member.weight for member in self.members]
        return torch.tensor(weights, dtype=torch.float64)

    def first_pieces(self, member: int) -> torch.Tensor:
        """For each row of the union, the row of the token with which a member begins its unit.

        The row itself if the member has it as a token, or if it is no text. (size,)

        Made when first needed, which takes a second for large vocabularies.
        """
        if member not in self._first_pieces:
            union, tokenizer = self.union, self.members[member].tokenizer
            lacking = set((~union.has(member)).nonzero().flatten().tolist())
            pieces = torch.arange(union.size)
            for unit, row in union.rows.items():
                if row in lacking:
                    with suppress(CannotSpellError):  # such a unit is masked for all members
                        pieces[row] = union.row_of(member, tokenizer.encode(unit)[0])
            self._first_pieces[member] = pieces.to(union.device)
        return self._first_pieces[member]

    @cached_property
    def _first_pieces(self) -> dict[int, torch.Tensor]:
        return {}
