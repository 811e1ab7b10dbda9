"""A member: a scorer, which gives the logits after token ids, and the tokenizer of these ids.

A query is declarative: *the logits after each of the last n positions of these ids*. Appending,
catching up, scoring a draft, rolling back and re-encoding are all the same call, so a scorer is
free to keep any cache, or none.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # importing torch takes seconds, and methods' options are read without it
    import torch

    from gac_core.tokens.tokenizer import ByteTokenizer


@dataclass(frozen=True)
class Query:
    """The logits after each of the last `last` positions of `ids`.

    Args:
        ids: a whole history; not empty, and not changed afterwards.
        last: how many positions, 1 to ``len(ids)``.
        hidden: whether the last hidden state is wanted, too.
        branch: distinguishes several queries of one request to one member; queries of the same
            branch are answered from the same cached sequence.
        whole: whether all ids must be known, of a scorer that gives only the likeliest otherwise.

    Raises:
        ValueError: `last` is out of range.

    Example:
        >>> from gac_core import Query
        >>> Query([5, 6, 7], last=2)  # the logits after [5, 6] and after [5, 6, 7]
        Query(ids=[5, 6, 7], last=2, hidden=False, branch=0, whole=False)

    """

    ids: Sequence[int]
    last: int = 1
    hidden: bool = False
    branch: Hashable = 0
    whole: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.last <= len(self.ids):
            raise ValueError(f"last must be within 1 and the {len(self.ids)} ids, not {self.last}")


@dataclass(frozen=True)
class Scored:
    """The answer to a `Query`.

    Attributes:
        logits: after each of the query's last positions, (query.last, vocab_size), in float32 or
            the model's float64.
        hidden: the last hidden state at these positions, (query.last, hidden_size); None if the
            query does not want it.
        known: which logits are known, (query.last, vocab_size) of bool; None if all are. Then the
            logits are logprobs, none that is not known is larger than the least one that is, and
            what is left of the mass is spread over them.

    """

    logits: torch.Tensor
    hidden: torch.Tensor | None = None
    known: torch.Tensor | None = None


@dataclass(frozen=True)
class Ask:
    """The queries a decoding method asks next, by member index.

    The answer is a mapping from the same indices to one `Scored` per query, in their order.
    """

    queries: Mapping[int, Sequence[Query]]


Answers = Mapping[int, Sequence[Scored]]


@dataclass
class ScorerStats:
    """How much a scorer has computed so far.

    Attributes:
        forwards: number of forward passes.
        queries: number of queries answered; several may share a forward pass.
        positions: number of positions computed, padding left out.
        second_asks: number of queries for what a first answer did not tell; see `Query.whole`.

    """

    forwards: int = 0
    queries: int = 0
    positions: int = 0
    second_asks: int = 0


@runtime_checkable
class Scorer(Protocol):
    """Computes a member's logits: a model in this process, or anything else that can score ids.

    It belongs to one ensemble. Calls that name sequences (`score` with keys, `drop`, `clear`) come
    from one thread at a time; `score` without keys may be called beside them.

    Attributes:
        name: what messages call it.
        vocab_size: the number of logits per position.
        hidden_size: the size of the last hidden state; 0 if it can not be had.
        context_size: the longest sequence in ids, or None if there is no limit.
        device: the torch device on which its answers are.
        place: where it computes. Scorers of different places compute at the same time.
        stats: how much it has computed so far.

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
            keys: a name for the sequence of each query, all different. What was computed for a
                name may be kept (prefix cache) until `drop`; without names nothing is kept.

        Returns:
            One `Scored` per query, in their order.

        Raises:
            MemberError: the computing failed.

        """

    def drop(self, keys: Iterable[Hashable]) -> None:
        """Free the cache of the sequences with these names; unknown names are ignored."""

    def clear(self) -> None:
        """Free the cache of all sequences."""


@dataclass(frozen=True)
class Member:
    """One model of an ensemble, as methods see it.

    Attributes:
        name: unique in the ensemble.
        scorer: computes its logits.
        tokenizer: its tokens as bytes.
        weight: its weight in fusions; the weights of all members sum to 1.
        leading_space: whether its chat template writes the answer "Hello" as " Hello".
        reads_transcript: whether it reads chats as a transcript ("Question: ..."), for want of a
            chat template.

    """

    name: str
    scorer: Scorer
    tokenizer: ByteTokenizer
    weight: float
    leading_space: bool = False
    reads_transcript: bool = False
