"""The spaces that a step chooses from: the primary's own rows, the union of tokens, and bytes.

All that follows a choice (histories, grammar, text) works on the bytes of a row, so a method may
decide over any of them.
"""

from typing import Final, Protocol

import torch

from gac_core.tokens.union import UnionVocabulary
from gac_core.tokens.vocabulary import TokenKind, Vocabulary


class Space(Protocol):
    """Rows that stand for units of text, and for the end of the answer."""

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
        """The member's own id of a row, where rows are ids of its own; else None."""

    def is_choice(self, member: int, row: int, top: int | None) -> bool:
        """Whether the member itself would have written this row.

        Args:
            member: its index.
            row: what was chosen.
            top: its most probable row; None if it was not asked.

        """

    def from_units(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask over the units that answers are made of, as one over these rows, (size,)."""


class PrimaryRows:
    """The primary's own rows: the space of what it decides alone.

    Args:
        union: of the members.

    """

    def __init__(self, union: UnionVocabulary) -> None:
        self._union = union
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
        return row if member == self._union.primary or self._union.is_shared else None

    def is_choice(self, member: int, row: int, top: int | None) -> bool:  # noqa: ARG002
        """Only the primary's own."""
        return member == self._union.primary

    def from_units(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask over the union, (size of the union,), as one over the primary's rows, (size,)."""
        return mask[self._union.primary_rows]


class _Bytes(UnionVocabulary):
    """A row for each byte, and the end. Every member can write each of them, none as a token."""

    def token(self, member: int, row: int) -> int | None:  # noqa: ARG002
        return None

    def is_choice(self, member: int, row: int, top: int | None) -> bool:  # noqa: ARG002
        return False


BYTES: Final = _Bytes(
    [Vocabulary((*(bytes([b]) for b in range(256)), b""), (*[TokenKind.TEXT] * 256, TokenKind.END))]
)
