"""The text tokens of a vocabulary in the order of their bytes."""

from bisect import bisect_left, bisect_right
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gac_core.tokens.vocabulary import Vocabulary

_MOST_REMEMBERED: Final = 10_000  # groups of tokens by their next byte


class SortedTokens:
    """The text tokens of a vocabulary sorted by bytes, so that those with a prefix are neighbours.

    Args:
        vocabulary: whose tokens they are.

    Attributes:
        tokens: their bytes.
        ids: their ids, (tokens,).
        ends: ids of the end tokens.
        ids_by_bytes: the id that is written, of several tokens with the same bytes.
        token_bytes: the bytes of each id.

    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        ids = sorted(vocabulary.text_ids, key=vocabulary.token_bytes.__getitem__)
        self.ids = np.array(ids)
        self.ends = sorted(vocabulary.end_ids)
        self.ids_by_bytes = vocabulary.ids_by_bytes
        self.token_bytes = vocabulary.token_bytes
        self.tokens = [vocabulary.token_bytes[i] for i in ids]
        self._data = np.frombuffer(b"".join(self.tokens), np.uint8)
        lengths = np.fromiter(map(len, self.tokens), np.int64, len(ids))
        self._starts = np.cumsum(lengths) - lengths
        self._groups: dict[tuple[int, int, int], tuple[NDArray[np.uint8], NDArray[np.intp]]] = {}

    def bytes_at(self, low: int, number: int, offset: int) -> NDArray[np.uint8]:
        """The byte at an offset of each of `number` tokens from `low` on, all of them longer."""
        at: NDArray[np.uint8] = self._data[self._starts[low : low + number] + offset]
        return at

    def by_next_byte(
        self, low: int, high: int, offset: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
        """The groups of neighbours that have the same byte at an offset; remembered.

        Args:
            low: index of the first token; all have the same bytes before the offset, and more.
            high: index after the last token; there is one or more.
            offset: of the byte.

        Returns:
            The byte of each group, and where it begins from `low` on, (groups,) each.

        """
        key = (low, high, offset)
        if key not in self._groups:
            if len(self._groups) >= _MOST_REMEMBERED:
                self._groups.clear()
            data = self.bytes_at(low, high - low, offset)
            begins = np.flatnonzero(np.diff(data, prepend=data[0] ^ 0xFF))
            self._groups[key] = data[begins], begins
        return self._groups[key]

    def span(self, prefix: bytes, low: int, high: int) -> tuple[int, int, int]:
        """The indices of the tokens that begin with a prefix.

        Args:
            prefix: the bytes with which tokens begin.
            low: index from which they are looked for.
            high: index before which they are looked for.

        Returns:
            The first that equals the prefix, the first that is longer, and the end of these.

        """
        tokens, length = self.tokens, len(prefix)
        start = bisect_left(tokens, prefix, low, high)
        middle = bisect_right(tokens, prefix, start, high)
        return start, middle, bisect_right(tokens, prefix, middle, high, key=lambda t: t[:length])
