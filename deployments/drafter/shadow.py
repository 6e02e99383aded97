"""Shadows: what a drafter keeps of the target's keys and values, one shadow per session.

Shapes: H kv heads, T entries (positions), D head dimension, B bytes of one head's part of an entry.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.drafter.attention_inputs import EntryMemory
from deployments.messages import KvRange, LayerType, SessionId
from deployments.models.loading import ShadowLayer, ShadowSpec

_FIRST_CAPACITY = 64
ROLLBACK_SLACK = 64
"""Entries kept before a sliding layer's window, so that a rollback this deep leaves a whole window."""

Entries = bytes | torch.Tensor
"""Keys or values of a range: raw, or of shape (T, H, D) where the shadow is."""


class LayerShadow:
    """One layer's keys and values of positions [start, stop), in buffers that grow by half or more.

    A full layer holds everything from position 0. A sliding layer (`window` not None) holds at
    least what the target itself lets position `stop` see, which is `window - 1` entries, and
    moves its entries to the front of the buffer when that is full, once per `window` entries.
    `num_bytes` are those of the buffers, unused capacity included.
    """

    def __init__(self, layer: ShadowLayer, window: int | None, dtype: torch.dtype, device: torch.device) -> None:
        self._layer = layer
        self._keep = None if window is None else window + ROLLBACK_SLACK
        self._window = window
        self._hold(torch.empty(2, layer.num_kv_heads, 0, layer.head_dim, dtype=dtype, device=device))
        self.start = 0
        self.stop = 0

    def _hold(self, entries_2HTD: torch.Tensor) -> None:
        """Take a buffer for keys and values."""
        self._entries_2HTD = entries_2HTD
        # A round writes a few entries, and any operation of torch's takes longer than copying them.
        is_here = entries_2HTD.device.type == "cpu"
        self._memory_2THB: NDArray[np.uint8] | None = (
            entries_2HTD.view(torch.uint8).numpy().transpose(0, 2, 1, 3) if is_here else None
        )
        self.num_bytes = entries_2HTD.nbytes

    def span_after(self, start: int, stop: int, held: tuple[int, int], *, is_whole: bool) -> tuple[int, int]:
        """What [start, stop) turns the `held` span into; ValueError when that would leave a gap.

        Before `is_whole` a sliding layer may begin anew further on: a target that has let go of entries sends what it
        has, and has the whole window by the time that it asks for a draft.
        """
        held_start, held_stop = held
        needed = self._first_needed(stop)
        is_joined = start > needed and held_start <= start <= held_stop
        first = held_start if is_joined else start
        if first > needed and (is_whole or self._window is None):
            raise ValueError(
                f"{self._layer.layer_type} range [{start}, {stop}) leaves a gap: entries [{held_start}, {held_stop}) "
                f"are held and {needed} onwards are needed; send the range from {held_stop} on"
            )
        return first if self._keep is None else max(first, stop - self._keep), stop

    def write(self, start: int, stop: int, keys: Entries, values: Entries) -> None:
        """Put entries [start, stop) in place and forget those after; span and sizes were checked before."""
        first = start if self._keep is None else max(start, stop - self._keep)
        if first <= self._first_needed(stop) or first > self.stop:
            # It brings all that is needed. What is held before it may be older than a rollback: a
            # verifier that rewrites more than a window ships the last window only.
            self.start = first
        self._make_room(first, stop)
        for part, data in enumerate((keys, values)):
            self._put(part, first - self.start, stop - self.start, data, first - start)
        self.stop = stop

    def _put(self, part: int, start: int, stop: int, data: Entries, num_skipped: int) -> None:
        """Copy entries, of which the first are skipped, to [start, stop) of the buffer."""
        if isinstance(data, torch.Tensor):
            self._entries_2HTD[part, :, start:stop].copy_(data[num_skipped:].transpose(0, 1))
            return
        assert self._memory_2THB is not None, "raw entries go to the host's memory alone"
        place_THB = self._memory_2THB[part, start:stop]
        skipped_bytes = num_skipped * self._layer.entry_numel * self._entries_2HTD.itemsize
        place_THB[:] = np.frombuffer(data, np.uint8, offset=skipped_bytes).reshape(place_THB.shape)

    def view(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the held entries of [start, stop), each (H, T, D), sharing the buffers' memory."""
        span = slice(max(start, self.start) - self.start, stop - self.start)
        keys_HTD, values_HTD = self._entries_2HTD[:, :, span]
        return keys_HTD, values_HTD

    def memory(self, start: int, stop: int) -> EntryMemory:
        """Where the held entries of [start, stop) lie."""
        _, heads, capacity, dim = self._entries_2HTD.shape
        first, size = max(start, self.start), self._entries_2HTD.element_size()
        keys = self._entries_2HTD.data_ptr() + (first - self.start) * dim * size
        return EntryMemory(keys, keys + heads * capacity * dim * size, capacity * dim, stop - first)

    def _first_needed(self, stop: int) -> int:
        """The first entry that the target itself lets position `stop` see."""
        return 0 if self._window is None else max(0, stop - self._window + 1)

    def _make_room(self, start: int, stop: int) -> None:
        """Make the buffers reach `stop`, keeping entries [self.start, start)."""
        capacity = self._entries_2HTD.shape[2]
        if stop - self.start <= capacity:
            return
        first = self.start if self._keep is None else max(self.start, start - self._keep)
        kept = slice(first - self.start, start - self.start)
        num_kept = start - first
        if stop - first > capacity:
            # With room for an answer: else the round after a prompt's copies all of it once more.
            needed = stop - first
            spare = needed // 2 if self._keep is None else min(needed, 2 * self._keep - needed)
            capacity = max(_FIRST_CAPACITY, needed + spare)
            _, heads, _, dim = self._entries_2HTD.shape
            entries_2HTD = self._entries_2HTD.new_empty(2, heads, capacity, dim)
            entries_2HTD[:, :, :num_kept] = self._entries_2HTD[:, :, kept]
            self._hold(entries_2HTD)
        else:
            self._entries_2HTD[:, :, :num_kept] = self._entries_2HTD[:, :, kept].clone()
        self.start = first


class Shadow:
    """The sliding and the full layer of one session."""

    def __init__(self, spec: ShadowSpec, device: torch.device) -> None:
        self._spec = spec
        self._device = device
        self.layers: dict[LayerType, LayerShadow] = {
            name: LayerShadow(layer, spec.sliding_window if name == "sliding_attention" else None, spec.dtype, device)
            for name, layer in spec.layers.items()
        }

    @property
    def have_len(self) -> int:
        """Entries 0 .. have_len - 1 are held by every layer (of a sliding one, those still needed)."""
        return min([layer.stop for layer in self.layers.values()])

    @property
    def num_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum([layer.num_bytes for layer in self.layers.values()])

    def extend(self, ranges: Sequence[KvRange], *, is_whole: bool = True) -> None:
        """Write all ranges, or none of them: ValueError when bytes or spans do not fit.

        `is_whole` says that everything must be there afterwards that a draft reads.
        """
        spans = {name: (layer.start, layer.stop) for name, layer in self.layers.items()}
        for item in ranges:
            self._check_shape(item)
            spans[item.layer_type] = self.layers[item.layer_type].span_after(
                item.start, item.stop, spans[item.layer_type], is_whole=is_whole
            )
        for item, (keys, values) in zip(ranges, self._entries(ranges), strict=True):
            self.layers[item.layer_type].write(item.start, item.stop, keys, values)

    def window_view(self, layer_type: LayerType, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, each (H, T, D), that a draft at query position `stop` attends to.

        The full layer gives entries [0, stop), the sliding layer the last window of them.
        """
        return self.layers[layer_type].view(self._first_seen(layer_type, stop), stop)

    def window_memory(self, layer_type: LayerType, stop: int) -> EntryMemory:
        """Where those entries lie."""
        return self.layers[layer_type].memory(self._first_seen(layer_type, stop), stop)

    def _first_seen(self, layer_type: LayerType, stop: int) -> int:
        return max(0, stop - self._spec.sliding_window) if layer_type == "sliding_attention" else 0

    def _check_shape(self, item: KvRange) -> None:
        layer = self._spec.layers.get(item.layer_type)
        if layer is None:
            raise ValueError(f"no shadow layer {item.layer_type!r}; the layers are {', '.join(self._spec.layers)}")
        if not 0 <= item.start <= item.stop:
            raise ValueError(f"{item.layer_type} range [{item.start}, {item.stop}) is no range of positions")
        expected = (item.stop - item.start) * layer.entry_numel * self._spec.dtype.itemsize
        for part, data in (("keys", item.keys), ("values", item.values)):
            if len(data) != expected:
                raise ValueError(
                    f"{item.layer_type} {part} of [{item.start}, {item.stop}) have {len(data)} bytes, expected "
                    f"{expected} ({layer.num_kv_heads} heads of {layer.head_dim} in {self._spec.dtype}); "
                    "drafter and verifier must serve the same target in the same dtype"
                )

    def _entries(self, ranges: Sequence[KvRange]) -> Iterator[tuple[Entries, Entries]]:
        """Keys and values of each range as they are written: raw on the CPU, to a device all in one copy."""
        if self._device.type == "cpu":
            yield from ((item.keys, item.values) for item in ranges)
            return
        data = bytearray().join(part for item in ranges for part in (item.keys, item.values))
        # From pinned memory, which the device reads on its own while this goes on.
        flat = tensor_from_bytes(data, self._spec.dtype).pin_memory().to(self._device, non_blocking=True)
        first = 0
        for item in ranges:
            layer = self._spec.layers[item.layer_type]
            shape = (2, item.stop - item.start, layer.num_kv_heads, layer.head_dim)
            keys_THD, values_THD = flat[first : first + math.prod(shape)].view(shape)
            yield keys_THD, values_THD
            first += math.prod(shape)


class ShadowPool:
    """All shadows of a drafter within a byte budget; the least recently used are evicted to keep it.

    Used means attached, extended or drafted from. An evicted session holds nothing, and an extend
    from position 0 on brings it back.
    """

    def __init__(self, spec: ShadowSpec, *, budget_bytes: int, device: torch.device) -> None:
        self._spec = spec
        self._budget_bytes = budget_bytes
        self._device = device
        self._shadows: OrderedDict[SessionId, Shadow] = OrderedDict()
        self._num_bytes = 0
        self.num_evicted = 0

    @property
    def num_bytes(self) -> int:
        """Bytes that all shadows hold; at most the budget."""
        return self._num_bytes

    def start(self, session: SessionId) -> None:
        """Begin an empty shadow, in place of any that was there."""
        self.drop(session)
        self._shadows[session] = Shadow(self._spec, self._device)

    def drop(self, session: SessionId) -> None:
        """Free a session's shadow. Idempotent."""
        shadow = self._shadows.pop(session, None)
        if shadow is not None:
            self._num_bytes -= shadow.num_bytes

    def get(self, session: SessionId) -> Shadow | None:
        """The session's shadow, None when it was evicted or never begun."""
        return self._shadows.get(session)

    def extend(self, session: SessionId, ranges: Sequence[KvRange], *, is_whole: bool = True) -> None:
        """Write ranges into a shadow (see `Shadow.extend`), then evict until the budget holds."""
        shadow = self._shadows.get(session)
        if shadow is None:
            self.start(session)
            shadow = self._shadows[session]
        bytes_before = shadow.num_bytes
        shadow.extend(ranges, is_whole=is_whole)
        self._num_bytes += shadow.num_bytes - bytes_before
        self.touch((session,))
        while self._num_bytes > self._budget_bytes:
            self.drop(next(iter(self._shadows)))
            self.num_evicted += 1

    def touch(self, sessions: Iterable[SessionId]) -> None:
        """Count these sessions as used just now."""
        for session in sessions:
            self._shadows.move_to_end(session)


def tensor_from_bytes(data: bytes | bytearray, dtype: torch.dtype) -> torch.Tensor:
    """A flat tensor of the raw bytes; `bytes` are copied, as torch has no read-only tensors."""
    if not data:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(data if isinstance(data, bytearray) else bytearray(data), dtype=dtype)
