"""The union vocabulary: all members' tokens, keyed by the bytes they stand for, and one END.

The primary's rows come first, so its map is the identity; what the others add follows, sorted by
bytes, so that the order of the members changes nothing. Tokens of one member with the same bytes
are one unit, and so are all end tokens.

Members that share one vocabulary keep it as it is: their rows are the units, and where they agree
on the end tokens, each of these too. An ensemble of one model is then that model, token for token.
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
        self.is_shared = are_same_text(self.vocabularies)
        self._units = list(first.token_bytes)
        unspellable: frozenset[int] = frozenset()
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
            unspellable = frozenset[int]().union(*(v.missing_bytes for v in self.vocabularies))
            assert unspellable <= NEVER_IN_TEXT, "a member that can not spell text was let in"
        self.size = len(self._units)
        self._allowed = tuple(_allowed(v, unspellable) for v in self.vocabularies)
        self._masks = tuple(~allowed for allowed in self._allowed)
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

    @cached_property
    def spaced_pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the units " x" and of "x", for every x that has both. (pairs,) each.

        No x begins with a space, so no row is both a spaced and a plain one.
        """
        rows = self.rows
        pairs = [
            (row, rows[data[1:]])
            for data, row in rows.items()
            if len(data) > 1 and data[0] == 0x20 and data[1] != 0x20 and data[1:] in rows
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
        if isinstance(index, _Moves):
            if len(probs) == self.size and not len(index.rows):
                return probs
            out = probs.new_zeros(self.size)
            out[: len(probs)] = probs[: self.size]
            out.index_add_(0, index.into, probs[index.rows])
            out[index.rows[index.rows < self.size]] = 0
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

    def _map(self, member: int) -> "torch.Tensor | _Moves":
        """Where the rows of a member go."""
        vocabulary = self.vocabularies[member]
        first = self.vocabularies[self.primary]
        if self.is_shared:
            if len(self.end_rows) > 1 or vocabulary.end_ids == self.end_rows:
                return self._moves({})
            (end,) = self.end_rows
            return self._moves({i: end for i in vocabulary.end_ids if i != end})
        (end,) = self.end_rows
        rows = self.rows
        allowed = self._allowed[member].tolist()
        kinds, tokens = vocabulary.kinds, vocabulary.token_bytes
        # Masked rows hold no mass and may go anywhere.
        index = [
            rows[tokens[i]] if ok and kinds[i] is Kind.TEXT else end for i, ok in enumerate(allowed)
        ]
        if vocabulary is first or vocabulary == first:
            return self._moves(
                {i: index[i] for i, ok in enumerate(allowed) if ok and index[i] != i}
            )
        # int64: index_add_ with int32 indices is many times slower on CPU.
        return torch.tensor(index, dtype=torch.int64, device=self.device)

    def _moves(self, into: dict[int, int]) -> "_Moves":
        rows = torch.tensor(list(into), dtype=torch.int64, device=self.device)
        return _Moves(
            rows, torch.tensor(list(into.values()), dtype=torch.int64, device=rows.device)
        )


class _Moves:
    """A map that is the identity but for a few rows, whose mass is moved into others."""

    def __init__(self, rows: torch.Tensor, into: torch.Tensor) -> None:
        self.rows = rows
        self.into = into


def are_same_text(vocabularies: Sequence[Vocabulary]) -> bool:
    """Whether all have the same text at the same ids; padding rows and end tokens may differ."""
    first = vocabularies[0]
    return all(v is first or v.text_by_id == first.text_by_id for v in vocabularies[1:])


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
    if not are_same_text([speller.vocabulary for speller in spellers]):
        for speller in spellers:
            speller.check()
