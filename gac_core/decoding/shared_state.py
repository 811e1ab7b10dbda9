"""What all requests of an ensemble share."""

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from gac_core.config import EnsembleConfig
from gac_core.errors import CannotSpellError
from gac_core.fusion.rules import Rule
from gac_core.fusion.weighting import Weighting
from gac_core.members.base import Member
from gac_core.tokens.spaces import PrimaryRows
from gac_core.tokens.union import UnionVocabulary


@dataclass(frozen=True)
class SharedState:
    """What all requests of an ensemble share.

    Attributes:
        config: the active options, those of the method among them.
        union: of the members' vocabularies.
        units: what answers are made of: the rows of the union, or bytes.
        rule: the fusion rule of that name.
        weighting: the class of that name.
        resource: what the method's spec made; None if it makes nothing.

    """

    members: tuple[Member, ...]
    union: UnionVocabulary
    units: UnionVocabulary
    config: EnsembleConfig
    rule: Rule
    weighting: type[Weighting]
    resource: Any = None

    @cached_property
    def primary_rows(self) -> PrimaryRows:
        """The space of what the primary decides alone."""
        return PrimaryRows(self.union)

    @cached_property
    def weights(self) -> torch.Tensor:
        """The members' weights, of sum 1, (members,)."""
        weights = [member.weight for member in self.members]
        return torch.tensor(weights, dtype=torch.float64)

    def first_pieces(self, member: int) -> torch.Tensor:
        """For each row of the union, the row of the token a member begins to spell it with.

        Its own where it has one, or where the row is no text; (size,). Made when first needed,
        which takes a second for large vocabularies.
        """
        if member not in self._first_pieces:
            union, tokenizer = self.union, self.members[member].tokenizer
            lacking = set((~union.has(member)).nonzero().flatten().tolist())
            pieces = torch.arange(union.size)
            for unit, row in union.rows.items():
                if row in lacking:
                    with suppress(CannotSpellError):  # then no member may write it
                        pieces[row] = union.row_of(member, tokenizer.encode(unit)[0])
            self._first_pieces[member] = pieces.to(union.device)
        return self._first_pieces[member]

    @cached_property
    def _first_pieces(self) -> dict[int, torch.Tensor]:
        return {}
