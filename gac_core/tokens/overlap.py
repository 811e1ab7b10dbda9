"""How much two tokenizers have in common: shared tokens, and words that both split alike."""

from collections.abc import Iterable
from dataclasses import dataclass

from gac_core.errors import CannotSpellError
from gac_core.tokens.tokenizer import ByteTokenizer


@dataclass(frozen=True)
class Overlap:
    """How much two vocabularies share, by the bytes of their tokens.

    Attributes:
        union: number of units of text in both together.
        common: number of units of text that both have.
        a_in_b: share of the first's units that the second has.
        b_in_a: share of the second's units that the first has.
        words_alike: share of the words that both split into the same pieces; None without words.

    """

    union: int
    common: int
    a_in_b: float
    b_in_a: float
    words_alike: float | None


def overlap(a: ByteTokenizer, b: ByteTokenizer, words: Iterable[str] = ()) -> Overlap:
    """Compare two tokenizers.

    Args:
        a: the first tokenizer.
        b: the second tokenizer.
        words: common words; each is written as in the middle of a text, with a space before it
            (as in GaC, https://arxiv.org/abs/2406.12585, whose pairs all share above 90%).

    """
    units_a, units_b = a.vocabulary.ids_by_bytes.keys(), b.vocabulary.ids_by_bytes.keys()
    common = len(units_a & units_b)
    alike = [_splits_alike(a, b, word) for word in words]
    return Overlap(
        len(units_a | units_b),
        common,
        common / len(units_a),
        common / len(units_b),
        sum(alike) / len(alike) if alike else None,
    )


def _splits_alike(a: ByteTokenizer, b: ByteTokenizer, word: str) -> bool:
    try:
        return _pieces(a, word) == _pieces(b, word)
    except CannotSpellError:
        return False


def _pieces(tokenizer: ByteTokenizer, word: str) -> list[bytes]:
    return [tokenizer.vocabulary.token_bytes[i] for i in tokenizer.encode(b" " + word.encode())]
