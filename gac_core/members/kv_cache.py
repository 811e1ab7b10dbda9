"""The KV cache of a member, a prefix cache: many sequences of different lengths in one store.

The keys and values of the token at position p of a sequence are in slot p of that sequence. So
there are no holes and nothing is ever moved: rolling back is forgetting ids; padding is written
after a sequence's last token, where the mask hides it and the next chunk overwrites it; and
sequences come and go independently. Attention gets explicit masks and positions, for full and
sliding-window layers alike.
"""

import inspect
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import Any, Final

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from gac_core.members.base import Scored
from gac_core.tokens.history import common_prefix

_FEWEST_SLOTS: Final = 64  # positions per sequence for which memory is reserved at first
# Of the relative difference between cached and plain logits in `why_not`.
_TRIAL_TOLERANCE: Final = 1e-3
_HALF_TRIAL_TOLERANCE: Final = 0.25  # of models in half precision
_WORTH_COPYING: Final = 16  # ids; a shorter common prefix with another sequence is computed anew


def forward(
    model: PreTrainedModel, *, hidden: bool, **inputs: Any
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A forward pass: the logits and, with `hidden`, the hidden states they were computed from."""
    if not hidden:
        return model(**inputs).logits, None
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError("the model names no output layer, so its hidden state can not be had")
    given: list[torch.Tensor] = []
    thread = get_ident()  # a hook also sees the passes of other threads that use the model

    def take(_head: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if get_ident() == thread:
            given.append(args[0])

    hook = head.register_forward_pre_hook(take)
    try:
        logits: torch.Tensor = model(**inputs).logits
    finally:
        hook.remove()
    return logits, given[-1].to(logits)


def takes_logits_to_keep(model: PreTrainedModel) -> bool:
    """Whether its `forward` can leave out the logits of positions that are not asked about."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


@dataclass(frozen=True)
class _Chunk:
    """Where the tokens of one forward pass are written.

    Attributes:
        indices: which sequences of the store they belong to, (batch,); None if these are the first
            ones in order and start at the same position.
        positions: of the tokens, (batch, chunk_len).
        in_order: whether the sequences are the first ones of the store in order: 0, 1, ...
        start: the first position of all sequences; None if it differs.
        length: the number of slots that attention reads.

    """

    indices: torch.Tensor | None
    positions: torch.Tensor
    in_order: bool
    start: int | None
    length: int

    def to(self, device: torch.device) -> "_Chunk":
        if self.positions.device == device:
            return self
        return _Chunk(
            None if self.indices is None else self.indices.to(device),
            self.positions.to(device),
            self.in_order,
            self.start,
            self.length,
        )


class _Layer(DynamicLayer):
    """The store of one layer: keys and values, (sequences, heads, slots, head_dim) each."""

    def __init__(self, cache: "KVCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # noqa: ARG002  (the base class passes what other kinds of layers need)
        **kwargs: Any,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor]:
        chunk = self._cache.chunk.to(key_states.device)
        if not self.is_initialized:
            self.keys = self._cache.new_store(key_states)
            self.values = self._cache.new_store(value_states)
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        assert self.keys is not None
        assert self.values is not None
        return (
            _write_and_read(self.keys, key_states, chunk),
            _write_and_read(self.values, value_states, chunk),
        )

    def get_seq_length(self) -> int:
        return self._cache.chunk.start or 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0


def _write_and_read(store: torch.Tensor, new: torch.Tensor, chunk: _Chunk) -> torch.Tensor:
    """Write a chunk to its slots, and read its sequences from the first slot on.

    Args:
        store: (sequences, heads, slots, head_dim).
        new: (batch, heads, chunk_len, head_dim).
        chunk: where `new` is written.

    Returns:
        (batch, heads, chunk.length, head_dim).

    """
    batch, _, chunk_len, _ = new.shape
    if chunk.indices is None:
        assert chunk.start is not None
        store[:batch, :, chunk.start : chunk.start + chunk_len] = new
    else:
        store[chunk.indices[:, None], :, chunk.positions] = new.transpose(1, 2)
    if chunk.in_order:
        return store[:batch, :, : chunk.length]
    return store[chunk.indices, :, : chunk.length]


class KVCache:
    """The keys and values of many sequences, each with a name (`key`).

    Args:
        model: an attention-only model, see `why_not`.
        context_size: positions are kept below it; None if there is no limit.

    """

    def __init__(self, model: PreTrainedModel, context_size: int | None) -> None:
        self.model = model
        self.context_size = context_size
        config: Any = model.config.get_text_config()
        self._windows = _windows_by_layer_type(config)
        self._eager = getattr(model.config, "_attn_implementation", "eager") == "eager"
        self._trims_logits = takes_logits_to_keep(model)
        self._device = input_device(model)
        self.clear()

    def __len__(self) -> int:
        """The number of sequences held."""
        return len(self._ids)

    def clear(self) -> None:
        """Forget all sequences."""
        self._keys: list[Hashable] = []  # by the sequence's index in the store
        self._index_of: dict[Hashable, int] = {}
        self._ids: list[list[int]] = []  # by index
        self._reserved = (0, 0)  # sequences, and slots of each, for which there is memory
        self.chunk = _Chunk(None, torch.empty(0), True, 0, 0)
        self._cache = Cache(layer_class_to_replicate=lambda: _Layer(self))  # type: ignore[arg-type]

    def rewind(self, key: Hashable, ids: Sequence[int]) -> int:
        """Cut a sequence back to its common prefix with the ids.

        A new sequence begins with a copy of the longest common prefix that another one has.

        Returns:
            The number of ids that are left.

        """
        index = self._index_of.get(key)
        if index is not None:
            length = common_prefix(self._ids[index], ids)
            del self._ids[index][length:]
            return length
        lengths = [common_prefix(held, ids) for held in self._ids]
        source = max(range(len(lengths)), key=lengths.__getitem__, default=None)
        index = len(self._keys)
        self._keys.append(key)
        self._index_of[key] = index
        self._ids.append([])
        if source is None or lengths[source] < _WORTH_COPYING:
            return 0
        length = lengths[source]
        self._reserve(index + 1, length)
        for store in self._stores():
            store[index, :, :length] = store[source, :, :length]
        self._ids[index] = list(ids[:length])
        return length

    def drop(self, key: Hashable) -> None:
        """Forget a sequence; the last one gets its index, and memory that none needs is freed."""
        index = self._index_of.pop(key, None)
        if index is None:
            return
        last = len(self._keys) - 1
        if last == 0:
            self.clear()
            return
        if index != last:
            length = len(self._ids[last])
            with torch.inference_mode():
                for store in self._stores():
                    store[index, :, :length] = store[last, :, :length]
            self._keys[index], self._ids[index] = self._keys[last], self._ids[last]
            self._index_of[self._keys[index]] = index
        del self._keys[last], self._ids[last]
        sequences, slots = self._reserved
        needed_sequences = _power_of_two(len(self._ids))
        needed_slots = _slots_for(max(map(len, self._ids)))
        if needed_sequences <= sequences // 4 or needed_slots <= slots // 4:
            with torch.inference_mode():
                self._resize(needed_sequences, needed_slots)

    def forward(
        self,
        keys: Sequence[Hashable],
        sequences: Sequence[Sequence[int]],
        starts: Sequence[int],
        lasts: Sequence[int],
        *,
        hidden: bool = False,
    ) -> list[Scored]:
        """Compute each sequence from its start on, in one forward pass.

        Args:
            keys: names of sequences, all different, after `rewind` to at least their start.
            sequences: the whole ids of each.
            starts: the first position of each that is computed anew.
            lasts: the number of positions of each that are asked about; all of them are new.
            hidden: whether the last hidden states are wanted, too.

        Returns:
            For each sequence the answer at its last positions, in the model's own precision.

        """
        order = sorted(range(len(keys)), key=lambda i: self._index_of[keys[i]])
        indices = [self._index_of[keys[i]] for i in order]
        first = [starts[i] for i in order]
        new = [list(sequences[i][starts[i] :]) for i in order]
        chunk_len = max(map(len, new))
        length = max(first) + chunk_len
        self._reserve(len(self._keys), length)
        device = self._device
        start = first[0] if min(first) == max(first) else None
        if start is None:
            starting = torch.tensor(first, device=device)[:, None]
            positions = starting + torch.arange(chunk_len, device=device)
        else:
            positions = torch.arange(start, length, device=device).expand(len(indices), chunk_len)
        ids = torch.tensor([n + [0] * (chunk_len - len(n)) for n in new], device=device)
        in_order = indices == list(range(len(indices)))
        is_block = in_order and start is not None
        written = None if is_block else torch.tensor(indices, device=device)
        self.chunk = _Chunk(written, positions, in_order, start, length)
        limit = (self.context_size or length) - 1
        options: dict[str, Any] = {}
        wanted = sorted(
            {p for n, i in zip(new, order, strict=True) for p in range(len(n) - lasts[i], len(n))}
        )
        if trims := self._trims_logits and len(wanted) < chunk_len:
            options["logits_to_keep"] = torch.tensor(wanted, device=device)
        logits, states = forward(
            self.model,
            hidden=hidden,
            input_ids=ids,
            attention_mask=self._mask(positions, chunk_len, length),
            position_ids=positions if length <= limit + 1 else positions.clamp(max=limit),
            past_key_values=self._cache,
            use_cache=True,
            **options,
        )  # (batch, wanted or chunk_len, ...)
        results = [Scored(logits)] * len(keys)
        for at, i in enumerate(order):
            self._ids[indices[at]] = list(sequences[i])
            end = len(new[at])
            if trims:
                end = wanted.index(end - 1) + 1
            begin = end - lasts[i]
            results[i] = Scored(
                logits[at, begin:end], None if states is None else states[at, begin:end]
            )
        return results

    def _mask(
        self, positions: torch.Tensor, chunk_len: int, length: int
    ) -> torch.Tensor | dict[str, torch.Tensor] | None:
        """What new tokens attend to: (batch, 1, chunk_len, length), by layer type if mixed."""
        windows = set(self._windows.values())
        if (
            self.chunk.start is not None
            and (chunk_len == 1 or self.chunk.start == 0)
            and all(window is None or length <= window for window in windows)
        ):
            return None  # plain causal attention, for which the model has its fastest kernel
        slots = torch.arange(length, device=positions.device)
        causal = slots <= positions[..., None]
        masks = {}
        for layer_type, window in self._windows.items():
            mask = causal if window is None else causal & (slots > positions[..., None] - window)
            mask = mask[:, None]
            if self._eager:
                dtype = self.model.dtype
                floor = torch.finfo(dtype).min
                mask = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, floor)
            masks[layer_type] = mask
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def new_store(self, like: torch.Tensor) -> torch.Tensor:
        """A store for all sequences and slots, of zeros: slots not yet written must be finite."""
        sequences, slots = self._reserved
        _, heads, _, head_dim = like.shape
        return like.new_zeros((sequences, heads, slots, head_dim))

    def _stores(self) -> list[torch.Tensor]:
        layers = [layer for layer in self._cache.layers if isinstance(layer, _Layer)]
        return [s for layer in layers for s in (layer.keys, layer.values) if s is not None]

    def _reserve(self, sequences: int, length: int) -> None:
        """See that there is memory for so many sequences of this length."""
        if sequences > self._reserved[0] or length > self._reserved[1]:
            self._resize(
                max(self._reserved[0], _power_of_two(sequences)),
                max(self._reserved[1], _slots_for(length)),
            )

    def _resize(self, sequences: int, slots: int) -> None:
        self._reserved = (sequences, slots)
        for layer in self._cache.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                if old is not None:
                    new = self.new_store(old)
                    n, m = min(sequences, old.shape[0]), min(slots, old.shape[2])
                    new[:n, :, :m] = old[:n, :, :m]
                    setattr(layer, name, new)


def _power_of_two(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _slots_for(length: int) -> int:
    return max(_FEWEST_SLOTS, _power_of_two(length))


def _windows_by_layer_type(config: Any) -> dict[str, int | None]:
    """The window of each layer type in positions; None if it attends to all before it."""
    types = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    if not types:
        types = {"sliding_attention" if window else "full_attention"}
    return {t: window if t == "sliding_attention" else None for t in sorted(types)}


def input_device(model: PreTrainedModel) -> torch.device:
    """The device on which the model takes its ids."""
    device = model.get_input_embeddings().weight.device
    assert isinstance(device, torch.device)
    return device


def why_not(model: PreTrainedModel) -> str | None:
    """The reason why the cache would give wrong logits for this model, or None.

    Known reasons are looked for first; then a short schedule with unequal lengths and a rollback is
    compared with plain forward passes, which detects unknown architectures, too.
    """
    config: Any = model.config.get_text_config()
    parameters = inspect.signature(model.forward).parameters
    if not {"past_key_values", "position_ids"} <= parameters.keys():
        return "its forward takes no KV cache or no positions"
    if getattr(model, "_is_stateful", False):
        return "its state can not be cut back"
    unknown = set(getattr(config, "layer_types", None) or ()) - {
        "full_attention",
        "sliding_attention",
    }
    if unknown:
        return f"it has layers of the types {sorted(unknown)}"
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = {
        part.get("rope_type")
        for part in (rope, *(rope.values() if isinstance(rope, dict) else ()))
        if isinstance(part, dict)
    }
    if kinds & {"longrope", "dynamic"}:
        return "its rotary frequencies depend on the length of the longest sequence"
    try:
        error = _trial_error(model, config)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError) as problem:
        return f"a trial run failed: {' '.join(str(problem).split())[:200]}"
    precise = model.dtype in (torch.float32, torch.float64)
    tolerance = _TRIAL_TOLERANCE if precise else _HALF_TRIAL_TOLERANCE
    return None if error <= tolerance else f"a trial run was off by {error:.2g}"


def _trial_error(model: PreTrainedModel, config: Any) -> float:
    """The largest relative difference between cached and plain logits over a short schedule."""
    windows = [w for w in _windows_by_layer_type(config).values() if w is not None]
    context = getattr(config, "max_position_embeddings", None) or 64
    longest = min(context, max([13, *(w + 5 for w in windows if w <= 64)]))
    vocabulary = config.vocab_size
    a = [(7 * i + 3) % vocabulary for i in range(longest)]
    b = [(5 * i + 1) % vocabulary for i in range(longest // 2)]
    rewritten = [*a[:-3], *((11 * i + 2) % vocabulary for i in range(3))]
    cache = KVCache(model, getattr(config, "max_position_embeddings", None))
    worst = 0.0
    with torch.inference_mode():
        for sequences in ((a[:-1], b[:-1]), (rewritten, b)):
            starts = [
                min(cache.rewind(key, ids), len(ids) - 1)
                for key, ids in zip("ab", sequences, strict=True)
            ]
            got = cache.forward("ab", sequences, starts, [1, 1])
            for ids, scored in zip(sequences, got, strict=True):
                tokens = torch.tensor([list(ids)], device=input_device(model))
                plain = model(input_ids=tokens, use_cache=False)
                want = plain.logits[0, -1].double()
                spread = (want - want.mean()).norm()
                worst = max(worst, float((scored.logits[-1].double() - want).norm() / spread))
    return worst if worst == worst else float("inf")
