"""A member that is a transformers model of this process.

Its KV cache is a prefix cache: of a cached sequence the longest common prefix with the ids of a
query is kept, the rest is dropped, and one forward pass computes the ids that are new.
"""

import logging
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from gac_core.errors import MemberError, one_line
from gac_core.members.base import Query, Scored, ScorerStats
from gac_core.members.kv_cache import KVCache, forward, input_device, takes_logits_to_keep, why_not

_log = logging.getLogger(__name__)

# Sequences share a cache with others of their bucket of lengths, in ids.
_FIRST_BUCKET: Final = 1024  # the longest sequence of the first bucket
_BUCKET_FACTOR: Final = 8  # from one bucket to the next


class LocalScorer:
    """A causal model as a `Scorer`.

    Args:
        model: a causal language model in evaluation mode.
        name: what messages call it.
        use_cache: False computes every query from its first id on.

    Attributes:
        model: the model.
        has_cache: whether there is a KV cache, so that each position is computed only once.

    The other attributes are those of `Scorer`.

    """

    def __init__(self, model: PreTrainedModel, name: str, *, use_cache: bool = True) -> None:
        self.model = model
        self.name = name
        config: Any = model.config.get_text_config()
        head = model.get_output_embeddings()
        self.vocab_size = int(getattr(head, "out_features", None) or config.vocab_size)
        self.hidden_size = int(getattr(config, "hidden_size", 0))
        limit = getattr(config, "max_position_embeddings", None)
        self.context_size = int(limit) if limit else None
        self.device = input_device(model)
        self.place: Hashable = str(self.device)
        self.stats = ScorerStats()
        self._takes_logits_to_keep = takes_logits_to_keep(model)
        self._caches: dict[int, KVCache] = {}  # by bucket, named by its longest sequence
        self._buckets: dict[Hashable, int] = {}  # by sequence
        self.has_cache = use_cache
        if use_cache and (reason := why_not(model)):
            self.has_cache = False
            _log.warning("%s runs without a KV cache, which is right but slow: %s", name, reason)

    @property
    def held_sequences(self) -> int:
        """The number of sequences whose keys and values are in memory."""
        return len(self._buckets)

    def score(
        self, queries: Sequence[Query], keys: Sequence[Hashable] | None = None
    ) -> list[Scored]:
        """Answer queries; see `Scorer`.

        Raises:
            MemberError: the forward pass failed.

        """
        if keys is not None and len(set(keys)) < len(queries):
            raise ValueError("two queries of one call have the same key; give each its own branch")
        self.stats.queries += len(queries)
        try:
            with torch.inference_mode():
                if not self.has_cache or keys is None:
                    return [self._from_scratch(query) for query in queries]
                return self._with_cache(queries, keys)
        except Exception as error:
            self.clear()  # a pass that failed may have written half of its keys and values
            raise MemberError(
                f"the forward pass of {self.name} failed: {one_line(error, 300)}"
            ) from error

    def drop(self, keys: Iterable[Hashable]) -> None:
        """Free the keys and values of these sequences."""
        for key in keys:
            bucket = self._buckets.pop(key, None)
            if bucket is not None:
                self._caches[bucket].drop(key)

    def clear(self) -> None:
        """Free all keys and values now, without waiting for the garbage collector."""
        for cache in self._caches.values():
            cache.clear()
        self._caches.clear()
        self._buckets.clear()

    def _from_scratch(self, query: Query) -> Scored:
        ids = torch.tensor([list(query.ids)], device=self.device)
        self.stats.forwards += 1
        self.stats.positions += len(query.ids)
        options: dict[str, Any] = {"use_cache": False}
        if self._takes_logits_to_keep:
            options["logits_to_keep"] = query.last
        logits, hidden = forward(self.model, hidden=query.hidden, input_ids=ids, **options)
        return _full_precision(
            Scored(logits[0, -query.last :], None if hidden is None else hidden[0, -query.last :])
        )

    def _with_cache(self, queries: Sequence[Query], keys: Sequence[Hashable]) -> list[Scored]:
        caches = [self._cache(k, len(q.ids)) for k, q in zip(keys, queries, strict=True)]
        starts = [
            min(cache.rewind(key, query.ids), len(query.ids) - query.last)
            for cache, key, query in zip(caches, keys, queries, strict=True)
        ]
        lengths = [len(query.ids) - start for query, start in zip(queries, starts, strict=True)]
        results: dict[int, Scored] = {}
        for bucket, cache in self._caches.items():
            asked = [i for i, key in enumerate(keys) if self._buckets[key] == bucket]
            for group in _groups_of_like_length(asked, lengths):
                scored = cache.forward(
                    [keys[i] for i in group],
                    [queries[i].ids for i in group],
                    [starts[i] for i in group],
                    [queries[i].last for i in group],
                    hidden=any(queries[i].hidden for i in group),
                )
                self.stats.forwards += 1
                self.stats.positions += sum(lengths[i] for i in group)
                results.update(zip(group, map(_full_precision, scored), strict=True))
        return [
            results[i] if query.hidden else Scored(results[i].logits)
            for i, query in enumerate(queries)
        ]

    def _cache(self, key: Hashable, length: int) -> KVCache:
        """The cache of the bucket for a sequence of this length.

        Every sequence of a cache takes as much memory as its longest one, so short chats do not
        share a cache with long prompts. A sequence that outgrows its bucket is computed again in
        the next one, which happens to it a few times at most.
        """
        needed = _FIRST_BUCKET
        while needed < length:
            needed *= _BUCKET_FACTOR
        bucket = self._buckets.get(key)
        if bucket is not None and bucket < needed:
            self._caches[bucket].drop(key)
            bucket = None
        if bucket is None:
            bucket = self._buckets[key] = needed
        if bucket not in self._caches:
            self._caches[bucket] = KVCache(self.model, self.context_size)
        return self._caches[bucket]


def _full_precision(scored: Scored) -> Scored:
    logits, hidden = scored.logits, scored.hidden
    if logits.dtype is torch.float64:
        return scored
    return Scored(logits.float(), None if hidden is None else hidden.float())


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
