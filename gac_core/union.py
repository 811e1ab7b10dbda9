"""The union vocabulary: all members' tokens, keyed by the bytes they stand for, and one END.

The primary's rows come first, so its map is the identity; what the others add follows, sorted by
bytes, so that the order of the members changes nothing. Tokens of one member with the same bytes
are one unit, and so are all end tokens.

Members that share one vocabulary keep it as it is: their rows are the units, each end token too.
An ensemble of one model is then that model, token for token.
"""

from collections.abc import Sequence
from functools import cached_property

import torch

from gac_core.speller import Speller
from gac_core.vocabulary import NEVER_IN_TEXT, Kind, Vocabulary

END = b""  # the unit that ends an answer stands for no bytes


class Union:
    """The union vocabulary of several members and its maps.

    Args:
        vocabularies: one per member.
        primary: the member whose rows come first.
        device: where the fused distributions live.

    Attributes:
        size: number of rows.
        is_shared: whether all members have one and the same vocabulary.

    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        primary: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.vocabularies = tuple(vocabularies)
        self.primary = primary
        self.device = torch.device(device)
        first = self.vocabularies[primary]
        self.is_shared = all(v is first or v == first for v in self.vocabularies)
        self._units = list(first.token_bytes)
        if self.is_shared:
            self.end_rows = first.end_ids
            unspellable: frozenset[int] = frozenset()
        else:
            added = {
                data
                for vocabulary in self.vocabularies
                for data in vocabulary.ids_by_bytes.keys() - first.ids_by_bytes.keys()
            }
            self._units += sorted(added)
            self.end_rows = frozenset({min(first.end_ids)})
            unspellable = frozenset[int]().union(*(v.missing_bytes for v in self.vocabularies))
            assert unspellable <= NEVER_IN_TEXT, "a member that can not spell text was let in"
        self.size = len(self._units)
        self._allowed = tuple(_allowed(v, unspellable) for v in self.vocabularies)
        self._masks = tuple(~allowed for allowed in self._allowed)
        self._maps = tuple(
            None if self.is_shared else self._map(m) for m in range(len(self.vocabularies))
        )

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

    @cached_property
    def spaced_pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the units " x" and of "x", for every x that has both. (pairs,) each."""
        rows = self.rows
        pairs = [
            (row, rows[data[1:]])
            for data, row in rows.items()
            if len(data) > 1 and data[0] == 0x20 and data[1:] in rows
        ]
        spaced, plain = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
        return spaced.to(self.device), plain.to(self.device)

    def mask(self, member: int, logits: torch.Tensor) -> torch.Tensor:
        """The member's logits with -inf where a row is neither text nor END. (..., member rows)"""
        return logits.masked_fill(self._mask_on(member, logits.device), -torch.inf)

    def project(self, member: int, probs: torch.Tensor) -> torch.Tensor:
        """A member's probabilities over its own rows as probabilities over the union.

        Args:
            member: whose they are.
            probs: (member rows,), 0 where masked.

        Returns:
            (size,), on the union's device; the mass is the same.

        """
        probs = probs.to(self.device)
        index = self._maps[member]
        if index is None:
            return probs
        if isinstance(index, _Twins):
            out = probs.new_zeros(self.size)
            out[: len(probs)] = probs
            out.index_add_(0, index.into, probs[index.rows])
            out[index.rows] = 0
            return out
        return probs.new_zeros(self.size).index_add_(0, index, probs)

    def _mask_on(self, member: int, device: torch.device) -> torch.Tensor:
        mask = self._masks[member]
        if mask.device != device:
            mask = mask.to(device)
            masks = list(self._masks)
            masks[member] = mask
            self._masks = tuple(masks)
        return mask

    def _map(self, member: int) -> "torch.Tensor | _Twins":
        """Where each row of the member goes; masked rows, which hold no mass, go to END."""
        vocabulary = self.vocabularies[member]
        first = self.vocabularies[self.primary]
        (end,) = self.end_rows
        rows = self.rows
        allowed = self._allowed[member].tolist()
        kinds, tokens = vocabulary.kinds, vocabulary.token_bytes
        index = [
            rows[tokens[i]] if ok and kinds[i] is Kind.TEXT else end for i, ok in enumerate(allowed)
        ]
        if vocabulary is first or vocabulary == first:
            twins = [i for i, ok in enumerate(allowed) if ok and index[i] != i]
            return _Twins(
                torch.tensor(twins, dtype=torch.int64, device=self.device),
                torch.tensor([index[i] for i in twins], dtype=torch.int64, device=self.device),
            )
        # int64: index_add_ with int32 indices is many times slower on CPU.
        return torch.tensor(index, dtype=torch.int64, device=self.device)


class _Twins:
    """Rows of the primary that stand for the same unit as another of its rows."""

    def __init__(self, rows: torch.Tensor, into: torch.Tensor) -> None:
        self.rows = rows
        self.into = into


def _allowed(vocabulary: Vocabulary, unspellable: frozenset[int]) -> torch.Tensor:
    """Rows that may be chosen: END, and text that every member can spell. (rows,)"""
    return torch.tensor(
        [
            kind is Kind.END
            or (kind is Kind.TEXT and (not unspellable or unspellable.isdisjoint(data)))
            for kind, data in zip(vocabulary.kinds, vocabulary.token_bytes, strict=True)
        ]
    )


def check_spelling(spellers: Sequence[Speller]) -> None:
    """Refuse members that could not follow the others, unless all share one vocabulary.

    Raises:
        VocabularyError: a tokenizer can not spell ordinary text, or rewrites it.

    """
    first = spellers[0].vocabulary
    if not all(s.vocabulary is first or s.vocabulary == first for s in spellers):
        for speller in spellers:
            speller.check()
