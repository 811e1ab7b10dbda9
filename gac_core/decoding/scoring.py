"""How probable another member holds the primary's tokens, each as the bytes it stands for.

Members cut the same text into other tokens, so a token of one is not a token of another; what they
can agree on is bytes. A helper's next tokens are leaves: byte strings with probabilities. Each leaf
speaks for the token with which the primary would begin it; for longer ones that the helper would
begin with it; and for shorter ones after which only blanks are left, since the last of several
blanks may belong to the next word. Among several of these its mass is shared as the primary itself
holds them likely, since how a text is cut is for the primary to say. So a leaf decides between
texts, and never between cuts of one text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from gac_core.decoding.path import Floats, Leaf
from gac_core.decoding.paths import LIKELY, Paths
from gac_core.tokens.sorted_tokens import SortedTokens
from gac_core.tokens.tokenizer import ByteTokenizer
from gac_core.tokens.vocabulary import Vocabulary

_MOST_LIKELY: Final = 32  # tokens of the primary
_NEGLIGIBLE: Final = 1e-7  # probability of a token that counts for none
_NATURAL: Final = 0.02  # what the token counts with which the primary would begin a leaf
_GROWN: Final = 0.1  # probability of a leaf that is asked what follows it
_OPEN: Final = 0.05  # probability of the primary's tokens for which it is


@dataclass(frozen=True)
class Candidate:
    """A token that the primary holds likely.

    Attributes:
        row: its id; for an end, the first of the end ids.
        text: its bytes, without a leading space that is only a spelling.
        prob: the primary's probability of it.

    """

    row: int
    text: bytes
    prob: float


class Candidates:
    """The tokens that the primary holds likely at a step, most probable first.

    Args:
        vocabulary: of the primary.
        probs: the primary's distribution over its rows, (size,).
        prefix: a space that the primary writes before the text here, or nothing.

    Attributes:
        prefix: this space.
        probs: the primary's distribution, its ends in one.
        tokens: those of text.
        end: the probability of the end.

    """

    def __init__(self, vocabulary: Vocabulary, probs: Floats, prefix: bytes = b"") -> None:
        self.prefix = prefix
        ends = sorted(vocabulary.end_ids)
        self.end = float(probs[ends].sum())
        self.probs = probs.copy()
        self.probs[ends] = 0.0
        self.probs[ends[0]] = self.end
        rows = np.flatnonzero(probs >= LIKELY)
        rows = rows[np.argsort(-probs[rows], kind="stable")][:_MOST_LIKELY]
        self.tokens = [
            Candidate(row, vocabulary.token_bytes[row].removeprefix(prefix), float(probs[row]))
            for row in rows.tolist()
            if row not in vocabulary.end_ids
        ]

    def shares(self, paths: Paths, leaf: Leaf, end_row: int, natural: int) -> dict[int, float]:
        """Which rows of the primary a leaf speaks for, and how much for each; of sum 1.

        Args:
            paths: of the helper whose leaf it is.
            leaf: of the helper.
            end_row: of the primary's end.
            natural: the row of the token with which the primary would begin the leaf.

        """
        if leaf.is_end and not leaf.text:
            return {end_row: 1.0}
        weights = {natural: _NATURAL}
        if leaf.may_end:
            weights[end_row] = self.end
        for token in self.tokens:
            if token.row == natural or _speaks_for(paths, leaf, token.text):
                weights[token.row] = weights.get(token.row, 0.0) + token.prob
        total = sum(weights.values())
        return {row: weight / total for row, weight in weights.items()}

    def goes_beyond(self, paths: Paths, leaf: Leaf) -> bool:
        """Whether a likely one begins with a helper's leaf and is longer."""
        return any(
            token.prob >= _OPEN and token.text != leaf.text and paths.may_begin(leaf, token.text)
            for token in self.tokens
        )


def _speaks_for(paths: Paths, leaf: Leaf, text: bytes) -> bool:
    """Whether a leaf may be one and the same text as a token of the primary, in another cut.

    A longer leaf is, if it goes on with blanks only, whose last one the primary may leave to the
    next word; otherwise the primary would begin it with another token.
    """
    if leaf.text.startswith(text):
        return leaf.text[len(text) :].isspace()
    return paths.may_begin(leaf, text)


class FirstTokens:
    """With which of the primary's tokens a text begins.

    Args:
        tokenizer: of the primary.
        allowed: which of its rows may be written, (size,) of bool.

    """

    def __init__(self, tokenizer: ByteTokenizer, allowed: torch.Tensor) -> None:
        primary, may = tokenizer.vocabulary, allowed.tolist()
        self._tokenizer = tokenizer
        self._ids = {data: row for data, row in primary.ids_by_bytes.items() if may[row]}
        self._longest = max(map(len, self._ids))
        self.size = len(primary)
        self.end_row = min(primary.end_ids)
        self._maps: dict[SortedTokens, NDArray[np.int64]] = {}

    def of(self, text: bytes) -> int | None:
        """The id with which the primary would begin to write a text; None if there is none."""
        found = self._ids.get(self._tokenizer.first(text))
        return self.longest(text) if found is None else found

    def longest(self, text: bytes) -> int | None:
        """The id of the longest token with which a text begins, which is quicker; or None."""
        for length in range(min(len(text), self._longest), 0, -1):
            if (found := self._ids.get(text[:length])) is not None:
                return found
        return None

    def of_all(self, tokens: SortedTokens) -> NDArray[np.int64]:
        """For each id of a member, the row of `longest`; the size if none. (vocab_size,)"""
        if tokens not in self._maps:
            found = [self.longest(data) for data in tokens.token_bytes]
            rows = np.array([self.size if row is None else row for row in found])
            rows[tokens.ends] = self.end_row
            self._maps[tokens] = rows
        return self._maps[tokens]


def leaf_to_grow(paths: Paths, candidates: Candidates) -> Leaf | None:
    """The likeliest leaf after which the helper must be asked again: a likely token goes beyond it.

    Args:
        paths: the helper's.
        candidates: the primary's likely tokens.

    """
    for leaf in paths.leaves():
        if leaf.mass < _GROWN:
            break
        if not leaf.is_end and paths.has_room(leaf) and candidates.goes_beyond(paths, leaf):
            return leaf
    return None


def score(paths: Paths, tokens: SortedTokens, first: FirstTokens, candidates: Candidates) -> Floats:
    """A helper's probabilities of the primary's tokens, over the primary's rows, (size,) of sum 1.

    Args:
        paths: the helper's.
        tokens: the helper's.
        first: of the primary.
        candidates: the primary's likely tokens.

    """
    rows = np.zeros(first.size + 1)  # the last one takes what the primary can not begin
    # Where nothing is open, every token counts for the one with which the primary would begin it.
    whole = [] if candidates.prefix else paths.fresh()
    for path in whole:
        into, own = first.of_all(tokens), path.rows
        likely = np.flatnonzero(own >= _NEGLIGIBLE)
        begun = np.bincount(into[likely], own[likely], first.size + 1)
        for token in path.without:
            begun[into[token]] -= own[token]
        rows += path.mass * path.scale * begun
    leaves = paths.leaves()
    seen = sum(leaf.mass for leaf in leaves if leaf.path not in whole)
    scale = (1.0 - sum(path.mass for path in whole)) / seen if seen > 0 else 0.0
    for leaf in leaves:
        is_counted = leaf.path in whole
        if is_counted and leaf.token is None:
            continue  # an end, which is where it belongs
        if is_counted:
            rows[first.of_all(tokens)[leaf.token]] -= leaf.mass
        natural = first.of(candidates.prefix + leaf.text) if leaf.text else None
        natural = first.size if natural is None else natural
        for row, share in candidates.shares(paths, leaf, first.end_row, natural).items():
            rows[row] += share * leaf.mass * (1.0 if is_counted else scale)
    rows = rows[: first.size]
    rows[rows < _NEGLIGIBLE] = 0.0  # else what rounding leaves would count for rules of zeros
    total = rows.sum()
    return rows / total if total > 0 else candidates.probs  # it has no say


def agreed(candidates: Candidates, helpers: Sequence[Paths]) -> bytes:
    """The bytes that all members hold more probable than not, byte for byte.

    A beginning of the primary's most probable token, if that has more than half of its mass.

    Args:
        candidates: the primary's likely tokens.
        helpers: the other members' paths.

    """
    if not candidates.tokens or candidates.tokens[0].prob <= 0.5:
        return b""
    text = candidates.tokens[0].text
    for paths in helpers:
        leaves = paths.leaves()
        before = 1.0
        for end in range(1, len(text) + 1):
            begun = text[:end]
            mass = sum(
                leaf.mass
                for leaf in leaves
                if leaf.text.startswith(begun) or (not leaf.is_end and begun.startswith(leaf.text))
            )
            if mass <= 0.5 * before:
                text = text[: end - 1]
                break
            before = mass
    return text
