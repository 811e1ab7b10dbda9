"""The spaces that a step chooses from: the primary's own rows, the union of tokens, and bytes.

Histories, grammar and text take the bytes of the row that was chosen, so a step may choose from any
of these spaces.
"""

from typing import Final, Protocol

import torch

from gac_core.tokens.union import UnionVocabulary
from gac_core.tokens.vocabulary import TokenKind, Vocabulary


class Space(Protocol):
    """Rows that stand for units of text, and for the end of the answer.

    The first rows are the tokens of the primary (of `BYTES`: the bytes), at their ids.
    """

    @property
    def size(self) -> int:
        """The number of rows."""

    @property
    def end_row(self) -> int:
        """The row that ends an answer; the first of several."""

    def unit(self, row: int) -> bytes:
        """The bytes of a row; empty for the end."""

    def is_end(self, row: int) -> bool:
        """Whether the row ends the answer."""

    def token(self, member: int, row: int) -> int | None:
        """The member's own id of a row, if the rows are ids of that member; else None."""

    def is_choice(self, member: int, row: int, top: int | None) -> bool:
        """Whether the member itself would have written this row.

        Args:
            member: its index.
            row: the row that was chosen.
            top: the member's most probable row; None if it was not asked.

        """

    def from_units(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask over the units that answers are made of as a mask over these rows, (size,)."""


class PrimaryRows:
    """The primary's own rows: the space of the steps that it decides alone.

    Args:
        union: of the members, or of the primary alone.
        primary: the primary's index in the ensemble.

    """

    def __init__(self, union: UnionVocabulary, primary: int) -> None:
        self._union = union
        self._primary = primary
        self._is_shared = union.is_shared and len(union.vocabularies) > 1
        self._vocabulary = union.vocabularies[union.primary]
        self.size = len(self._vocabulary)
        self.end_row = min(self._vocabulary.end_ids)

    def unit(self, row: int) -> bytes:
        """The bytes of a row; empty for the end."""
        return self._vocabulary.token_bytes[row]

    def is_end(self, row: int) -> bool:
        """Whether the row ends the answer."""
        return row in self._vocabulary.end_ids

    def token(self, member: int, row: int) -> int | None:
        """The row itself for the primary, and for members that share its vocabulary."""
        return row if member == self._primary or self._is_shared else None

    def is_choice(self, member: int, row: int, top: int | None) -> bool:  # noqa: ARG002
        """Whether the member is the primary; see `Space`."""
        return member == self._primary

    def from_units(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask over the union, (union.size,), as a mask over the primary's rows, (size,)."""
        return mask[self._union.primary_rows]


class _Bytes(UnionVocabulary):
    """A row for each byte, and one for the end. No member writes a byte as a token of its own."""

    def token(self, member: int, row: int) -> int | None:  # noqa: ARG002
        return None

    def is_choice(self, member: int, row: int, top: int | None) -> bool:  # noqa: ARG002
        return False


BYTES: Final = _Bytes(  # 257 rows
    [Vocabulary((*(bytes([b]) for b in range(256)), b""), (*[TokenKind.TEXT] * 256, TokenKind.END))]
)
