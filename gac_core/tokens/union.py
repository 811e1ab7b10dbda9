"""The union vocabulary: all members' tokens, keyed by the bytes they stand for, and one END.

The primary's rows come first, so its map is the identity; the units that others add follow, sorted
by bytes, so that the order of the members changes nothing. Tokens of one member with the same bytes
are one unit, and so are all end tokens (EOS, end of turn).

Members that share one vocabulary keep it as it is: their rows are the units; where they agree on
the end tokens, each of these has a row, too. An ensemble of one model is then that model, token for
token.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from gac_core.tokens.spelling import CommonSpelling
from gac_core.tokens.vocabulary import TokenKind, Vocabulary, are_same_text


class UnionVocabulary:
    """The union vocabulary of several members and its maps.

    Args:
        vocabularies: one per member.
        primary: index of the member whose rows come first.
        device: where distributions over the union are.
        by_bytes: whether text is written byte by byte; see `CommonSpelling`.

    Attributes:
        vocabularies: one per member.
        primary: index of the member whose rows come first.
        device: where distributions over the union are.
        size: number of rows.
        is_shared: whether all members have one and the same vocabulary.
        spelling: which units every member can write; all others are masked.
        end_rows: the rows that end an answer; several only if all members share them.

    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        primary: int = 0,
        device: torch.device | str = "cpu",
        *,
        by_bytes: bool = False,
    ) -> None:
        self.vocabularies = tuple(vocabularies)
        self.primary = primary
        self.device = torch.device(device)
        first = self.vocabularies[primary]
        self.is_shared = are_same_text(self.vocabularies)
        self.spelling = CommonSpelling(self.vocabularies, by_bytes=by_bytes)
        self._units = list(first.token_bytes)
        if self.is_shared:
            agree = all(v.end_ids == first.end_ids for v in self.vocabularies)
            self.end_rows = first.end_ids if agree else frozenset({min(first.end_ids)})
        else:
            added = {
                data
                for vocabulary in self.vocabularies
                for data in vocabulary.ids_by_bytes.keys() - first.ids_by_bytes.keys()
            }
            self._units += sorted(added)
            self.end_rows = frozenset({min(first.end_ids)})
        self.size = len(self._units)
        self._allowed = tuple(_allowed(v, self.spelling) for v in self.vocabularies)
        self._masked = [(~allowed).nonzero().flatten() for allowed in self._allowed]
        self._maps = tuple(self._map(m) for m in range(len(self.vocabularies)))

    def unit(self, row: int) -> bytes:
        """The bytes of a row; empty for END."""
        return self._units[row]

    def is_end(self, row: int) -> bool:
        """Whether the row is the end of the answer."""
        return row in self.end_rows

    @cached_property
    def rows(self) -> dict[bytes, int]:
        """The row of each unit of text."""
        first = self.vocabularies[self.primary]
        rows = dict(first.ids_by_bytes)
        start = len(first)
        rows.update((data, start + n) for n, data in enumerate(self._units[start:]))
        return rows

    @property
    def end_row(self) -> int:
        """The row that ends an answer; the first of several."""
        return min(self.end_rows)

    def begin_alike(self, row: int, other: int) -> bool:
        """Whether two rows begin the same text, or are both the end."""
        if self.is_end(row) or self.is_end(other):
            return self.is_end(row) and self.is_end(other)
        unit, another = self.unit(row), self.unit(other)
        return unit.startswith(another) or another.startswith(unit)

    def token(self, member: int, row: int) -> int | None:  # noqa: ARG002
        """The member's own id of a row, if all members share the rows; see `Space`."""
        return row if self.is_shared else None

    def is_choice(self, member: int, row: int, top: int | None) -> bool:  # noqa: ARG002
        """Whether the row is the member's most probable one; see `Space`."""
        return row == top

    def from_units(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask over the units; see `Space`."""
        return mask

    def allowed(self, member: int) -> torch.Tensor:
        """Which of a member's own rows may be written, (vocab_size,) of bool."""
        return self._allowed[member]

    def has(self, member: int) -> torch.Tensor:
        """Which rows a member has a token for, (size,) of bool."""
        return self._has[member]

    @cached_property
    def _has(self) -> tuple[torch.Tensor, ...]:
        return tuple(
            self.project(m, allowed.float()) > 0 for m, allowed in enumerate(self._allowed)
        )

    def row_of(self, member: int, token: int) -> int:
        """The row of a member's own text token."""
        if self.is_shared:
            return token
        return self.rows[self.vocabularies[member].token_bytes[token]]

    def rows_beginning(self, prefix: bytes) -> torch.Tensor:
        """The rows of all units of text that begin with these bytes, (n,)."""
        units, rows = self._sorted
        first = bisect_left(units, prefix)
        return rows[first : bisect_right(units, prefix, first, key=lambda u: u[: len(prefix)])]

    @cached_property
    def _sorted(self) -> tuple[list[bytes], torch.Tensor]:
        """Units of text in the order of their bytes, and their rows."""
        units = sorted(self.rows)
        rows = torch.tensor([self.rows[unit] for unit in units], device=self.device)
        return units, rows

    @cached_property
    def leading_space_pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of the units " x" and of "x", for every x that has both. (pairs,) each.

        No x begins with a space, so no row is in both tensors.
        """
        rows = self.rows
        pairs = [
            (row, rows[data[1:]])
            for data, row in rows.items()
            if len(data) > 1 and data[0] == 0x20 and data[1] != 0x20 and data[1:] in rows
        ]
        with_space, without = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
        return with_space.to(self.device), without.to(self.device)

    @cached_property
    def leading_space_rows(self) -> torch.Tensor:
        """The rows of all units of text that begin with a space, (n,)."""
        rows = [row for data, row in self.rows.items() if data.startswith(b" ")]
        return torch.tensor(rows, dtype=torch.int64, device=self.device)

    @cached_property
    def primary_rows(self) -> torch.Tensor:
        """The union's row for each of the primary's rows; the same row if it is masked."""
        first = self.vocabularies[self.primary]
        rows = torch.arange(len(first))
        if not self.is_shared:
            (end,) = self.end_rows
            for token in first.text_ids:
                rows[token] = self.rows[first.token_bytes[token]]
            rows[sorted(first.end_ids)] = end
        elif len(self.end_rows) == 1:
            rows[sorted(first.end_ids)] = min(self.end_rows)
        return rows.to(self.device)

    def mask(self, member: int, logits: torch.Tensor) -> torch.Tensor:
        """The member's logits with -inf where a row is neither text nor END. (..., vocab_size)"""
        masked = self._masked[member]
        if masked.device != logits.device:
            masked = self._masked[member] = masked.to(logits.device)
        return logits.index_fill(-1, masked, -torch.inf)

    def project(self, member: int, probs: torch.Tensor) -> torch.Tensor:
        """A member's probabilities over its own rows as probabilities over the union.

        Args:
            member: the member's index.
            probs: over its own rows, (vocab_size,), 0 where masked.

        Returns:
            Over the union, (size,), on the union's device and of the same mass.

        """
        probs = probs.to(self.device)
        return self._maps[member].apply(probs, self.size)

    def _map(self, member: int) -> "_Map":
        """The union's row for each of a member's rows."""
        vocabulary = self.vocabularies[member]
        first = self.vocabularies[self.primary]
        if self.is_shared:
            if len(self.end_rows) > 1 or vocabulary.end_ids == self.end_rows:
                return _Moves({}, len(vocabulary), self.size, self.device)
            (end,) = self.end_rows
            into = {i: end for i in vocabulary.end_ids if i != end}
            return _Moves(into, len(vocabulary), self.size, self.device)
        (end,) = self.end_rows
        rows = self.rows
        allowed = self._allowed[member].tolist()
        kinds, tokens = vocabulary.kinds, vocabulary.token_bytes
        into = {
            i: rows[tokens[i]] if kinds[i] is TokenKind.TEXT else end
            for i, ok in enumerate(allowed)
            if ok
        }
        if vocabulary is first or vocabulary == first:
            moved = {i: row for i, row in into.items() if row != i}
            return _Moves(moved, len(vocabulary), self.size, self.device)
        return _Scatter(into, len(vocabulary), self.size, self.device)


class _Map(Protocol):
    """Takes (vocab_size,) of a member to (size,) with the same mass; masked rows hold none."""

    def apply(self, probs: torch.Tensor, size: int) -> torch.Tensor: ...


class _Moves:
    """A map that is the identity but for a few rows, whose mass is moved into others."""

    def __init__(
        self, into: dict[int, int], vocab_size: int, size: int, device: torch.device
    ) -> None:
        self._is_identity = vocab_size == size and not into
        # int64: on some CPUs index_add_ with int32 indices is many times slower.
        self._rows = torch.tensor(list(into), dtype=torch.int64, device=device)
        self._into = torch.tensor(list(into.values()), dtype=torch.int64, device=device)
        self._left = self._rows[self._rows < size]

    def apply(self, probs: torch.Tensor, size: int) -> torch.Tensor:
        if self._is_identity and len(probs) == size:
            return probs
        out = probs.new_zeros(size)
        out[: len(probs)] = probs[:size]
        if len(self._rows):
            out.index_add_(0, self._into, probs[self._rows])
            out.index_fill_(0, self._left, 0.0)
        return out


class _Scatter:
    """A map in which several rows may meet in one.

    The first row of each target is written and only further ones are added, which is faster.
    """

    def __init__(
        self, into: dict[int, int], vocab_size: int, size: int, device: torch.device
    ) -> None:
        own = np.fromiter(into.keys(), np.int64, len(into))
        to = np.fromiter(into.values(), np.int64, len(into))
        is_first = np.zeros(len(into), bool)
        is_first[np.unique(to, return_index=True)[1]] = True
        index = np.full(vocab_size, size)  # masked rows go to one row too many, which is cut off
        index[own[is_first]] = to[is_first]
        self._index = torch.from_numpy(index).to(device)
        self._rows = torch.from_numpy(own[~is_first]).to(device)
        self._into = torch.from_numpy(to[~is_first]).to(device)

    def apply(self, probs: torch.Tensor, size: int) -> torch.Tensor:
        out = probs.new_zeros(size + 1).scatter_(0, self._index, probs)[:size]
        if len(self._rows):
            out.index_add_(0, self._into, probs[self._rows])
        return out


def _allowed(vocabulary: Vocabulary, spelling: CommonSpelling) -> torch.Tensor:
    """Which rows may be chosen: END, and text that every member can spell. (vocab_size,) of bool"""
    return torch.tensor(
        [
            kind is TokenKind.END
            or (kind is TokenKind.TEXT and (spelling.is_complete or spelling.allows(data)))
            for kind, data in zip(vocabulary.kinds, vocabulary.token_bytes, strict=True)
        ]
    )
