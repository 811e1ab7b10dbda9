"""The KV cache of a member: many sequences of different lengths in one cache.

A sequence is a row, and the token at position p lies in slot p of its row. So there are no holes
and nothing is ever moved: rolling back is forgetting ids, padding lands beyond a row's length where
the mask hides it and the next chunk overwrites it, and rows come and go independently. Attention
gets explicit masks and positions, for full and sliding-window layers alike.
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

_MINIMUM_CAPACITY: Final = 64
_WORTH_COPYING: Final = 16  # shared prefix from which a new row copies another's keys and values


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
    thread = get_ident()  # other threads may use the model meanwhile; hooks are the model's

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
    """Whether its forward can leave out the logits of positions that are not asked about."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


@dataclass(frozen=True)
class _Chunk:
    """Where the tokens of one forward pass go."""

    rows: torch.Tensor | None  # (batch,); None if they are 0, 1, ... and start together
    positions: torch.Tensor  # (batch, chunk_len)
    all_rows: bool  # the rows are 0, 1, ... in order
    start: int | None  # the common first position, if there is one
    length: int  # slots that are looked at

    def to(self, device: torch.device) -> "_Chunk":
        if self.positions.device == device:
            return self
        return _Chunk(
            None if self.rows is None else self.rows.to(device),
            self.positions.to(device),
            self.all_rows,
            self.start,
            self.length,
        )


class _Layer(DynamicLayer):
    """Keys and values of one layer: (row capacity, heads, slots, head_dim)."""

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
    """Write (batch, heads, chunk_len, head_dim) at its slots, read (batch, heads, length, ...)."""
    batch, _, chunk_len, _ = new.shape
    if chunk.rows is None:
        assert chunk.start is not None
        store[:batch, :, chunk.start : chunk.start + chunk_len] = new
    else:
        store[chunk.rows[:, None], :, chunk.positions] = new.transpose(1, 2)
    if chunk.all_rows:
        return store[:batch, :, : chunk.length]
    return store[chunk.rows, :, : chunk.length]


class KVCache:
    """Keys and values of sequences, by key.

    Args:
        model: an attention-only model, see `why_not`.
        context_size: positions are kept below it.

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
        """Forget everything."""
        self._keys: list[Hashable] = []  # by row
        self._rows: dict[Hashable, int] = {}
        self._ids: list[list[int]] = []  # by row
        self._slots = (0, 0)  # rows and positions there is room for
        self.chunk = _Chunk(None, torch.empty(0), True, 0, 0)
        self._cache = Cache(layer_class_to_replicate=lambda: _Layer(self))  # type: ignore[arg-type]

    def rewind(self, key: Hashable, ids: Sequence[int]) -> int:
        """Cut the row of the key back to its common prefix with the ids; its length.

        A new row begins with what another row has in common with it.
        """
        row = self._rows.get(key)
        if row is not None:
            length = common_prefix(self._ids[row], ids)
            del self._ids[row][length:]
            return length
        lengths = [common_prefix(held, ids) for held in self._ids]
        source = max(range(len(lengths)), key=lengths.__getitem__, default=None)
        row = len(self._keys)
        self._keys.append(key)
        self._rows[key] = row
        self._ids.append([])
        if source is None or lengths[source] < _WORTH_COPYING:
            return 0
        length = lengths[source]
        self._make_room(row + 1, length)
        for store in self._stores():
            store[row, :, :length] = store[source, :, :length]
        self._ids[row] = list(ids[:length])
        return length

    def drop(self, key: Hashable) -> None:
        """Forget a row; the last one takes its place, and memory no row needs is freed."""
        row = self._rows.pop(key, None)
        if row is None:
            return
        last = len(self._keys) - 1
        if last == 0:
            self.clear()
            return
        if row != last:
            length = len(self._ids[last])
            with torch.inference_mode():
                for store in self._stores():
                    store[row, :, :length] = store[last, :, :length]
            self._keys[row], self._ids[row] = self._keys[last], self._ids[last]
            self._rows[self._keys[row]] = row
        del self._keys[last], self._ids[last]
        rows, slots = self._slots
        needed_rows = _power_of_two(len(self._ids))
        needed_slots = _capacity(max(map(len, self._ids)))
        if needed_rows <= rows // 4 or needed_slots <= slots // 4:
            with torch.inference_mode():
                self._resize(needed_rows, needed_slots)

    def forward(
        self,
        keys: Sequence[Hashable],
        sequences: Sequence[Sequence[int]],
        starts: Sequence[int],
        lasts: Sequence[int],
        *,
        hidden: bool = False,
    ) -> list[Scored]:
        """Compute each sequence from its start on.

        Args:
            keys: one row each, all different, `rewind` to at least their start.
            sequences: whole id sequences.
            starts: the first position of each that is computed anew.
            lasts: how many positions of each are asked about; all of them are new.
            hidden: whether the last hidden states are wanted, too.

        Returns:
            For each sequence what is known after its last positions.

        """
        order = sorted(range(len(keys)), key=lambda i: self._rows[keys[i]])
        rows = [self._rows[keys[i]] for i in order]
        first = [starts[i] for i in order]
        new = [list(sequences[i][starts[i] :]) for i in order]
        chunk_len = max(map(len, new))
        length = max(first) + chunk_len
        self._make_room(len(self._keys), length)
        device = self._device
        start = first[0] if min(first) == max(first) else None
        if start is None:
            starting = torch.tensor(first, device=device)[:, None]
            positions = starting + torch.arange(chunk_len, device=device)
        else:
            positions = torch.arange(start, length, device=device).expand(len(rows), chunk_len)
        ids = torch.tensor([n + [0] * (chunk_len - len(n)) for n in new], device=device)
        all_rows = rows == list(range(len(rows)))
        held = None if all_rows and start is not None else torch.tensor(rows, device=device)
        self.chunk = _Chunk(held, positions, all_rows, start, length)
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
            self._ids[rows[at]] = list(sequences[i])
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
        """What new tokens may look at: (batch, 1, chunk_len, length), by layer type if mixed."""
        windows = set(self._windows.values())
        if (
            self.chunk.start is not None
            and (chunk_len == 1 or self.chunk.start == 0)
            and all(window is None or length <= window for window in windows)
        ):
            return None  # plain causal attention, which the model does fastest by itself
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
        """Room for all rows and slots, in zeros: what no token was written to must be finite."""
        rows, slots = self._slots
        _, heads, _, head_dim = like.shape
        return like.new_zeros((rows, heads, slots, head_dim))

    def _stores(self) -> list[torch.Tensor]:
        layers = [layer for layer in self._cache.layers if isinstance(layer, _Layer)]
        return [s for layer in layers for s in (layer.keys, layer.values) if s is not None]

    def _make_room(self, rows: int, length: int) -> None:
        if rows > self._slots[0] or length > self._slots[1]:
            self._resize(
                max(self._slots[0], _power_of_two(rows)), max(self._slots[1], _capacity(length))
            )

    def _resize(self, rows: int, slots: int) -> None:
        self._slots = (rows, slots)
        for layer in self._cache.layers:
            for name in ("keys", "values"):
                old = getattr(layer, name)
                if old is not None:
                    new = self.new_store(old)
                    n, m = min(rows, old.shape[0]), min(slots, old.shape[2])
                    new[:n, :, :m] = old[:n, :, :m]
                    setattr(layer, name, new)


def _power_of_two(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def _capacity(length: int) -> int:
    return max(_MINIMUM_CAPACITY, _power_of_two(length))


def _windows_by_layer_type(config: Any) -> dict[str, int | None]:
    """The window of each layer type; None where a layer sees everything before it."""
    types = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) is False:
        window = None
    if not types:
        types = {"sliding_attention" if window else "full_attention"}
    return {t: window if t == "sliding_attention" else None for t in sorted(types)}


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the model takes its ids."""
    device = model.get_input_embeddings().weight.device
    assert isinstance(device, torch.device)
    return device


def why_not(model: PreTrainedModel) -> str | None:
    """The reason why the cache would give wrong logits for this model, or None.

    Known reasons first; then a ragged schedule with a rollback is compared with plain forwards, so
    an architecture nobody thought of is found out too.
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
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.25
    return None if error <= tolerance else f"a trial run was off by {error:.2g}"


def _trial_error(model: PreTrainedModel, config: Any) -> float:
    """The largest relative difference between cached and plain forwards over a short schedule."""
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
