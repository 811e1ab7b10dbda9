"""What a member is: something that scores token ids, and the tokenizer that reads them.

A query is declarative: *the logits after each of the last n positions of these ids*. Appending,
catching up, scoring a draft, rolling back and re-encoding are all the same call, so a scorer may
keep whatever cache it likes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # methods and their options can be read without the seconds torch takes
    import torch

    from gac_core.tokens.tokenizer import ByteTokenizer


@dataclass(frozen=True)
class Query:
    """The logits after each of the last `last` positions of `ids`.

    Args:
        ids: a whole history; not empty, and not changed afterwards.
        last: how many positions, 1 to ``len(ids)``.
        hidden: whether the last hidden state is wanted, too.
        branch: tells apart several queries of one request to one member; queries of the same
            branch share the cache's sequence.

    """

    ids: Sequence[int]
    last: int = 1
    hidden: bool = False
    branch: Hashable = 0

    def __post_init__(self) -> None:
        if not 1 <= self.last <= len(self.ids):
            raise ValueError(f"last must be within 1 and the {len(self.ids)} ids, not {self.last}")


@dataclass(frozen=True)
class Scored:
    """The answer to a `Query`.

    Attributes:
        logits: after each of its last positions, (query.last, vocab_size), in float32 or the
            model's float64.
        hidden: the last hidden state at these positions, (query.last, hidden_size); None if it
            was not asked for.

    """

    logits: torch.Tensor
    hidden: torch.Tensor | None = None


@dataclass(frozen=True)
class Ask:
    """What a decoding method wants to know next: queries by member index.

    The answer is a mapping from the same indices to one `Scored` per query.
    """

    queries: Mapping[int, Sequence[Query]]


Answers = Mapping[int, Sequence[Scored]]


@dataclass
class ScorerStats:
    """What a scorer has done so far.

    Attributes:
        forwards: forward passes.
        queries: queries answered; several may share a forward pass.
        positions: positions computed, padding left out.

    """

    forwards: int = 0
    queries: int = 0
    positions: int = 0


@runtime_checkable
class Scorer(Protocol):
    """What a member is computed by: a model of this process, or anything else that can score ids.

    Its methods are called by one thread at a time.

    Attributes:
        name: what messages call it.
        vocab_size: the number of logits per position.
        hidden_size: of the last hidden state; 0 if it can not be had.
        context_size: the longest sequence, or None if there is no limit.
        device: where its answers are, as torch names it.
        place: where it is computed. Members of different places are computed at the same time.
        stats: what was computed so far.

    """

    name: str
    vocab_size: int
    hidden_size: int
    context_size: int | None
    device: torch.device
    place: Hashable
    stats: ScorerStats

    def score(
        self, queries: Sequence[Query], keys: Sequence[Hashable] | None = None
    ) -> list[Scored]:
        """Answer queries.

        Args:
            queries: any number, of any lengths; they may share forward passes.
            keys: names the sequence of each query, all different, so that what is known of it can
                be kept for later calls; without them nothing is kept.

        Raises:
            MemberError: it failed.

        """

    def drop(self, keys: Iterable[Hashable]) -> None:
        """Free what is kept of these sequences."""

    def clear(self) -> None:
        """Free what is kept of all sequences."""


@dataclass(frozen=True)
class Member:
    """One model of an ensemble, as methods see it.

    Attributes:
        name: unique in the ensemble.
        scorer: computes its logits.
        tokenizer: its tokens as bytes.
        weight: its share; all members' sum to 1.
        leading_space: whether its chat template writes answers as " Hello" for "Hello".

    """

    name: str
    scorer: Scorer
    tokenizer: ByteTokenizer
    weight: float
    leading_space: bool = False
