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
from typing import Any

import torch
from transformers import PreTrainedModel

from gac_core.errors import MemberError
from gac_core.kv_memo import KVMemo, input_device, why_not

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Query:
    """The logits after each of the last `last` positions of `ids`.

    Args:
        ids: a whole history; not empty, and not changed afterwards.
        last: how many positions, 1 to ``len(ids)``.
        branch: tells apart several queries of one request to one member; queries of the same
            branch share the memo's row.

    """

    ids: Sequence[int]
    last: int = 1
    branch: Hashable = 0

    def __post_init__(self) -> None:
        if not 1 <= self.last <= len(self.ids):
            raise ValueError(f"last must be within 1 and the {len(self.ids)} ids, not {self.last}")


@dataclass
class ScorerStats:
    """What a scorer has done so far.

    Attributes:
        forwards: forward passes.
        positions: positions computed, padding left out.

    """

    forwards: int = 0
    positions: int = 0


class Scorer:
    """A causal model behind `score`.

    Args:
        model: in evaluation mode.
        name: for messages.
        use_memo: False computes every query from its beginning.

    Attributes:
        rows: the number of logits per position.
        context_size: the longest sequence, or None if the model names no limit.
        stats: what was computed so far.

    """

    def __init__(self, model: PreTrainedModel, name: str, *, use_memo: bool = True) -> None:
        self.model = model
        self.name = name
        config: Any = model.config.get_text_config()
        self.rows = int(config.vocab_size)
        limit = getattr(config, "max_position_embeddings", None)
        self.context_size = int(limit) if limit else None
        self.device = input_device(model)
        self.stats = ScorerStats()
        self._takes_logits_to_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._memo: KVMemo | None = None
        if use_memo:
            reason = why_not(model)
            if reason is None:
                self._memo = KVMemo(model, self.context_size)
            else:
                _log.warning(
                    "%s runs without a KV cache, which is right but slow: %s", name, reason
                )

    @property
    def has_memo(self) -> bool:
        """Whether positions are computed once only."""
        return self._memo is not None

    @property
    def held_rows(self) -> int:
        """Sequences whose keys and values are in memory."""
        return len(self._memo) if self._memo else 0

    def score(
        self, queries: Sequence[Query], keys: Sequence[Hashable] | None = None
    ) -> list[torch.Tensor]:
        """The logits each query asks for.

        Args:
            queries: any number, of any lengths; they share forward passes.
            keys: the memo's row of each query, one query a row; without them nothing is kept.

        Returns:
            One (query.last, rows) tensor per query, in float32 or the model's float64.

        Raises:
            MemberError: the forward pass failed.

        """
        if keys is not None and len(set(keys)) < len(queries):
            raise ValueError("two queries of one call have the same key; give each its own branch")
        try:
            with torch.inference_mode():
                if self._memo is None or keys is None:
                    return [self._from_scratch(query) for query in queries]
                return self._with_memo(self._memo, queries, keys)
        except Exception as error:
            self.forget()  # what was written halfway is not to be trusted
            problem = " ".join(str(error).split())[:300]
            raise MemberError(f"the forward pass of {self.name} failed: {problem}") from error

    def drop(self, keys: Iterable[Hashable]) -> None:
        """Forget rows and free their memory."""
        if self._memo is not None:
            for key in keys:
                self._memo.drop(key)

    def forget(self) -> None:
        """Forget everything."""
        if self._memo is not None:
            self._memo.clear()

    def _from_scratch(self, query: Query) -> torch.Tensor:
        ids = torch.tensor([list(query.ids)], device=self.device)
        self.stats.forwards += 1
        self.stats.positions += len(query.ids)
        options: dict[str, Any] = {"use_cache": False}
        if self._takes_logits_to_keep:
            options["logits_to_keep"] = query.last
        logits: torch.Tensor = self.model(input_ids=ids, **options).logits
        return _full_precision(logits[0, -query.last :])

    def _with_memo(
        self, memo: KVMemo, queries: Sequence[Query], keys: Sequence[Hashable]
    ) -> list[torch.Tensor]:
        starts = [
            min(memo.rewind(key, query.ids), len(query.ids) - query.last)
            for query, key in zip(queries, keys, strict=True)
        ]
        lengths = [len(query.ids) - start for query, start in zip(queries, starts, strict=True)]
        results: dict[int, torch.Tensor] = {}
        for group in _groups_of_like_length(lengths):
            logits = memo.forward(
                [keys[i] for i in group],
                [queries[i].ids for i in group],
                [starts[i] for i in group],
                [queries[i].last for i in group],
            )
            self.stats.forwards += 1
            self.stats.positions += sum(lengths[i] for i in group)
            results.update(zip(group, map(_full_precision, logits), strict=True))
        return [results[i] for i in range(len(queries))]


def _full_precision(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype is torch.float64 else logits.float()


def _groups_of_like_length(lengths: Sequence[int]) -> list[list[int]]:
    """Indices grouped so that padding at most doubles the work of a group."""
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if groups:
            group = groups[-1]
            padded = lengths[i] * (len(group) + 1)
            if padded <= 2 * sum(lengths[j] for j in [*group, i]):
                group.append(i)
                continue
        groups.append([i])
    return groups
