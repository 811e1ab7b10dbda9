"""One member: `score(queries)` gives the logits after positions of id sequences.

A query is declarative: *the logits after each of the last n positions of these ids*. The scorer
keeps a KV cache only as a memo. It keeps the longest common prefix of the ids with what it holds,
drops the rest and runs one forward over what is new. Appending, catching up, scoring a draft,
rolling back and re-encoding are all the same call.
"""

import inspect
import logging
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from gac_core.errors import MemberError
from gac_core.members.kv_cache import KVCache, input_device, logits_of, why_not

_log = logging.getLogger(__name__)

_FIRST_SHELF: Final = 1024  # sequences up to this length share a memo, the next shelf holds 8 times


@dataclass(frozen=True)
class Query:
    """The logits after each of the last `last` positions of `ids`.

    Args:
        ids: a whole history; not empty, and not changed afterwards.
        last: how many positions, 1 to ``len(ids)``.
        hidden: whether each row of logits is to be followed by the last hidden state.
        branch: tells apart several queries of one request to one member; queries of the same
            branch share the memo's row.

    """

    ids: Sequence[int]
    last: int = 1
    hidden: bool = False
    branch: Hashable = 0

    def __post_init__(self) -> None:
        if not 1 <= self.last <= len(self.ids):
            raise ValueError(f"last must be within 1 and the {len(self.ids)} ids, not {self.last}")


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


class Scorer:
    """A causal model behind `score`.

    Args:
        model: in evaluation mode.
        name: for messages.
        use_memo: False computes every query from its beginning.

    Attributes:
        rows: the number of logits per position.
        width: of the last hidden state.
        context_size: the longest sequence, or None if the model names no limit.
        has_memo: whether positions are computed once only.
        stats: what was computed so far.

    """

    def __init__(self, model: PreTrainedModel, name: str, *, use_memo: bool = True) -> None:
        self.model = model
        self.name = name
        config: Any = model.config.get_text_config()
        head = model.get_output_embeddings()
        self.rows = int(getattr(head, "out_features", None) or config.vocab_size)
        self.width = int(getattr(config, "hidden_size", 0))
        limit = getattr(config, "max_position_embeddings", None)
        self.context_size = int(limit) if limit else None
        self.device = input_device(model)
        self.stats = ScorerStats()
        self._takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._shelves: dict[int, KVCache] = {}  # by the longest sequence they are for
        self._places: dict[Hashable, int] = {}  # the shelf of each row
        self.has_memo = use_memo
        if use_memo and (reason := why_not(model)):
            self.has_memo = False
            _log.warning("%s runs without a KV cache, which is right but slow: %s", name, reason)

    @property
    def held_rows(self) -> int:
        """Sequences whose keys and values are in memory."""
        return len(self._places)

    def score(
        self, queries: Sequence[Query], keys: Sequence[Hashable] | None = None
    ) -> list[torch.Tensor]:
        """The logits each query asks for.

        Args:
            queries: any number, of any lengths; they share forward passes.
            keys: the memo's row of each query, one query a row; without them nothing is kept.

        Returns:
            One (query.last, rows) tensor per query, in float32 or the model's float64; with
            `hidden` it is (query.last, rows + width).

        Raises:
            MemberError: the forward pass failed.

        """
        if keys is not None and len(set(keys)) < len(queries):
            raise ValueError("two queries of one call have the same key; give each its own branch")
        self.stats.queries += len(queries)
        try:
            with torch.inference_mode():
                if not self.has_memo or keys is None:
                    return [self._from_scratch(query) for query in queries]
                return self._with_memo(queries, keys)
        except Exception as error:
            self.forget()  # what was written halfway is not to be trusted
            problem = " ".join(str(error).split())[:300]
            raise MemberError(f"the forward pass of {self.name} failed: {problem}") from error

    def drop(self, keys: Iterable[Hashable]) -> None:
        """Forget rows and free their memory."""
        for key in keys:
            place = self._places.pop(key, None)
            if place is not None:
                self._shelves[place].drop(key)

    def forget(self) -> None:
        """Forget everything and free its memory at once, not when cycles are collected."""
        for shelf in self._shelves.values():
            shelf.clear()
        self._shelves.clear()
        self._places.clear()

    def _from_scratch(self, query: Query) -> torch.Tensor:
        ids = torch.tensor([list(query.ids)], device=self.device)
        self.stats.forwards += 1
        self.stats.positions += len(query.ids)
        options: dict[str, Any] = {"use_cache": False}
        if self._takes_logits_to_keep:
            options["logits_to_keep"] = query.last
        logits = logits_of(self.model, hidden=query.hidden, input_ids=ids, **options)
        return _full_precision(logits[0, -query.last :])

    def _with_memo(self, queries: Sequence[Query], keys: Sequence[Hashable]) -> list[torch.Tensor]:
        memos = [self._shelf(k, len(q.ids)) for k, q in zip(keys, queries, strict=True)]
        starts = [
            min(memo.rewind(key, query.ids), len(query.ids) - query.last)
            for memo, key, query in zip(memos, keys, queries, strict=True)
        ]
        lengths = [len(query.ids) - start for query, start in zip(queries, starts, strict=True)]
        results: dict[int, torch.Tensor] = {}
        for place, shelf in self._shelves.items():
            members = [i for i, key in enumerate(keys) if self._places[key] == place]
            for group in _groups_of_like_length(members, lengths):
                logits = shelf.forward(
                    [keys[i] for i in group],
                    [queries[i].ids for i in group],
                    [starts[i] for i in group],
                    [queries[i].last for i in group],
                    hidden=any(queries[i].hidden for i in group),
                )
                self.stats.forwards += 1
                self.stats.positions += sum(lengths[i] for i in group)
                results.update(zip(group, map(_full_precision, logits), strict=True))
        return [
            results[i] if query.hidden else results[i][:, : self.rows]
            for i, query in enumerate(queries)
        ]

    def _shelf(self, key: Hashable, length: int) -> KVCache:
        """The memo for sequences of about this length.

        All rows of a memo have room for its longest one, so a long prompt beside short chats would
        cost the chats its memory. A row that outgrows its shelf is read again on the next, which
        happens a few times in its life at most.
        """
        needed = _FIRST_SHELF
        while needed < length:
            needed *= 8
        place = self._places.get(key)
        if place is not None and place < needed:
            self._shelves[place].drop(key)
            place = None
        if place is None:
            place = self._places[key] = needed
        if place not in self._shelves:
            self._shelves[place] = KVCache(self.model, self.context_size)
        return self._shelves[place]


def _full_precision(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype is torch.float64 else logits.float()


def _groups_of_like_length(indices: Iterable[int], lengths: Sequence[int]) -> list[list[int]]:
    """The indices grouped so that padding at most doubles the work of a group."""
    groups: list[list[int]] = []
    for i in sorted(indices, key=lambda i: lengths[i]):
        if groups:
            group = groups[-1]
            padded = lengths[i] * (len(group) + 1)
            if padded <= 2 * sum(lengths[j] for j in [*group, i]):
                group.append(i)
                continue
        groups.append([i])
    return groups
