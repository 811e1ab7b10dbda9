"""The text tokens of a vocabulary in the order of their bytes."""

from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

from gac_core.tokens.vocabulary import Vocabulary


class SortedTokens:
    """The text tokens of a vocabulary sorted by bytes, so that those with a prefix are neighbours.

    Args:
        vocabulary: whose tokens they are.

    Attributes:
        tokens: their bytes.
        ids: their ids, (tokens,).
        ends: ids of the end tokens.
        first_bytes: the first byte of each id, 256 where an id is no text, (vocab_size,).
        ids_by_bytes: the id that is written, of several tokens with the same bytes.
        token_bytes: the bytes of each id.

    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        ids = sorted(vocabulary.text_ids, key=vocabulary.token_bytes.__getitem__)
        self.ids = np.array(ids)
        self.ends = sorted(vocabulary.end_ids)
        first = [data[0] if data else 256 for data in vocabulary.token_bytes]
        self.first_bytes = np.array(first, np.uint16)
        self.ids_by_bytes = vocabulary.ids_by_bytes
        self.token_bytes = vocabulary.token_bytes
        self.tokens = [vocabulary.token_bytes[i] for i in ids]
        self._data = np.frombuffer(b"".join(self.tokens), np.uint8)
        lengths = np.fromiter(map(len, self.tokens), np.int64, len(ids))
        self._starts = np.cumsum(lengths) - lengths

    def bytes_at(self, low: int, number: int, offset: int) -> NDArray[np.uint8]:
        """The byte at an offset of each of `number` tokens from `low` on, all of them longer."""
        at: NDArray[np.uint8] = self._data[self._starts[low : low + number] + offset]
        return at

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
