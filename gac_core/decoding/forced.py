"""A given text in place of choices, so that what a method would have given it can be read."""

from gac_core.tokens.spaces import BYTES, Space
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.union import UnionVocabulary


class ForcedText:
    """A text that an answer is made to write, and then its end.

    It is cut as the primary itself writes it; where the answer is within one of its tokens, since
    it is written in other units, the primary's encoding of the rest is what counts.

    Args:
        data: the text.
        tokenizer: of the primary.

    Attributes:
        tokens: the primary's ids of the text.

    Raises:
        CannotSpellError: the primary has no tokens for some bytes.

    """

    def __init__(self, data: bytes, tokenizer: ByteTokenizer) -> None:
        self.tokens = tokenizer.encode(data)
        self._data = data
        self._tokenizer = tokenizer
        self._token_at: dict[int, int] = {}  # by the number of bytes before it
        at = 0
        for token in self.tokens:
            self._token_at[at] = token
            at += len(tokenizer.vocabulary.token_bytes[token])

    def row(self, written: int, space: Space) -> int:
        """The row that goes on with the text, or ends the answer after it.

        Args:
            written: the number of its bytes that were written.
            space: the space whose row is wanted.

        """
        if written >= len(self._data):
            return space.end_row
        if space is BYTES:
            return self._data[written]
        if written not in self._token_at:
            self._token_at[written] = self._tokenizer.encode(self._data[written:])[0]
        token = self._token_at[written]
        if isinstance(space, UnionVocabulary):
            return space.row_of(space.primary, token)
        return token
