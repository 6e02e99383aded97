"""The paged KV cache: pools of slots per layer, and block tables that map a session's positions to them.

A session's room grows block by block, and is given back whole.

Shapes: S slots of a pool, N new entries, G kv heads, D head dimension, R table rows (one per open
session), M blocks of the longest session, P positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from deployments.messages import SessionId
from deployments.paged.block_pool import NULL_BLOCK, BlockPool, spans
from deployments.paged.prefix_index import BlockHash
from deployments.paged.sliding_tables import SlidingShape, SlidingTables


@dataclass(slots=True, kw_only=True)
class _Room:
    row: int
    blocks: list[int]
    computed_len: int = 0


class BlockTables:
    """Who owns which blocks, and how far each session's cache is filled.

    A session's computed length counts the entries that are valid; whatever its blocks hold beyond
    is garbage that the next step overwrites. `sliding` are the tables of layers that see a window, if there are any.
    All tables lie on the host, wherever the pools do.
    """

    sliding: SlidingTables | None = None
    version = 0
    """Changes whenever `blocks_RM` does."""

    def __init__(self, *, num_blocks: int, block_size: int, max_sessions: int, max_session_tokens: int) -> None:
        self.block_size = block_size
        self.max_session_tokens = max_session_tokens
        self._pool = BlockPool(num_blocks)
        self._free_rows = list(range(max_sessions - 1, -1, -1))
        self._rooms: dict[SessionId, _Room] = {}
        self._run_starts: list[int | None] = [None] * max_sessions
        max_blocks = -(-max_session_tokens // block_size)
        self.blocks_RM = torch.full((max_sessions, max_blocks), NULL_BLOCK, dtype=torch.int64)
        self._memory_RM = self.blocks_RM.numpy()  # a round writes a block or two: torch takes longer to begin

    def __contains__(self, session: SessionId) -> bool:
        return session in self._rooms

    @property
    def usage(self) -> float:
        """Share of all blocks that open sessions hold, 0 to 1."""
        return self._pool.usage

    def slide(self, shape: SlidingShape) -> None:
        """Keep blocks of their own for layers that see a window; before any session is open."""
        assert not self._rooms, "sessions are open"
        self.sliding = SlidingTables(shape, block_size=self.block_size, full_blocks_RM=self.blocks_RM)

    def has_room(self, num_tokens: int, hashes: Sequence[BlockHash] = (), num_spare_blocks: int = 0) -> bool:
        """Whether a session of `num_tokens` entries fits beside those that are open, with so many blocks to spare.

        `hashes` are those of the blocks that it begins with: what open sessions hold of them it need not take.
        """
        num_blocks = self._num_blocks_for(num_tokens)
        if not self._free_rows or num_blocks > self.blocks_RM.shape[1]:
            return False
        num_shared = self._pool.num_owned(self._find(hashes)) if hashes else 0
        return num_blocks - num_shared + num_spare_blocks <= self._pool.num_available

    def reserve(self, session: SessionId, num_tokens: int, hashes: Sequence[BlockHash] = ()) -> int:
        """Give a session room for `num_tokens` entries; ValueError when there is none.

        Where blocks of these hashes, from the first on, are known, the session shares them. Returns how many entries
        that makes valid; they can no longer be overwritten.
        """
        assert session not in self._rooms, f"session {session} is open already"
        if not self.has_room(num_tokens, hashes):
            raise ValueError(
                f"no room for {num_tokens} KV entries: {self._pool.num_available} blocks of {self.block_size} and "
                f"{len(self._free_rows)} session rows are free; ask can_open first, or give the cache more tokens"
            )
        found = self._find(hashes)
        for block in found:
            self._pool.share(block)
        room = _Room(row=self._free_rows.pop(), blocks=[], computed_len=len(found) * self.block_size)
        self._rooms[session] = room
        self._append(room, found)
        if self.sliding is not None:
            self.sliding.open(room.row, hashes[: len(found)])
        self._append(room, [self._pool.take() for _ in range(self._num_blocks_for(num_tokens) - len(found))])
        return room.computed_len

    def grow(self, session: SessionId, num_tokens: int) -> bool:
        """Make a session's room at least `num_tokens` entries; False, and nothing changes, when blocks are wanting."""
        room = self._rooms[session]
        num_more = self._num_blocks_for(num_tokens) - len(room.blocks)
        if num_more > self._pool.num_available:
            return False
        self._append(room, [self._pool.take() for _ in range(num_more)])
        return True

    def prepare(self, session: SessionId, num_tokens: int) -> None:
        """Before a step that fills the session's room up to `num_tokens`."""
        assert num_tokens <= self.capacity(session), "a context outgrew its room; ask grow first"
        if self.sliding is not None:
            self.sliding.prepare(self.row(session), num_tokens)

    def release(self, session: SessionId) -> None:
        """Take a session's room back. Idempotent."""
        room = self._rooms.pop(session, None)
        if room is None:
            return
        # The last first: it is of use only to who shares all before it.
        for block in reversed(room.blocks):
            self._pool.let_go(block)
        if self.sliding is not None:
            self.sliding.release(room.row)
        self._free_rows.append(room.row)
        self._memory_RM[room.row] = NULL_BLOCK
        self.version += 1

    def publish(self, session: SessionId, index: int, block_hash: BlockHash) -> None:
        """The session's block at this index is full and committed: sessions that begin alike may share it."""
        self._pool.publish(self._rooms[session].blocks[index], block_hash)
        if self.sliding is not None:
            self.sliding.publish(self.row(session), index, block_hash)

    def withdraw(self, session: SessionId, start: int) -> None:
        """Entries from `start` on will be overwritten: nobody finds their blocks any more, and nobody shares them."""
        room = self._rooms[session]
        if self.sliding is not None:
            self.sliding.withdraw(room.row, start)
        for block in room.blocks[start // self.block_size :]:
            self._pool.withdraw(block)

    def row(self, session: SessionId) -> int:
        """The session's row of `blocks_RM`."""
        return self._rooms[session].row

    def run_start(self, row: int) -> int | None:
        """The slot of position 0 when the row's blocks are consecutive, so that its entries are too."""
        return self._run_starts[row]

    def capacity(self, session: SessionId) -> int:
        """How many entries the session has room for."""
        return len(self._rooms[session].blocks) * self.block_size

    def computed_len(self, session: SessionId) -> int:
        """How many entries, from position 0 on, are valid."""
        return self._rooms[session].computed_len

    def set_computed_len(self, session: SessionId, computed_len: int) -> None:
        """Declare entries [0, computed_len) valid and the rest garbage."""
        assert 0 <= computed_len <= self.capacity(session), "computed length outside the session's room"
        room = self._rooms[session]
        room.computed_len = computed_len
        if self.sliding is not None:
            self.sliding.trim(room.row, computed_len)

    def spans(self, session: SessionId, start: int, stop: int) -> list[slice]:
        """The slots of positions [start, stop), in order, as few spans as there are."""
        return spans(self._rooms[session].blocks, self.block_size, start, stop)

    def first_sliding(self, session: SessionId) -> int:
        """The first position whose entry sliding layers hold."""
        return 0 if self.sliding is None else self.sliding.first_held(self.row(session))

    def sliding_spans(self, session: SessionId, start: int, stop: int) -> list[slice]:
        """The same in the pools of sliding layers."""
        if self.sliding is None:
            return self.spans(session, start, stop)
        return self.sliding.spans(self.row(session), start, stop)

    def check_integrity(self) -> None:
        """Assert that every block and row is free or owned exactly once, and that the tables say so."""
        if self.sliding is not None:
            self.sliding.check_integrity()
        self._pool.check_integrity([block for room in self._rooms.values() for block in room.blocks])
        rows = [room.row for room in self._rooms.values()]
        assert sorted(rows + self._free_rows) == list(range(self.blocks_RM.shape[0])), "a row is lost or shared"
        expected = torch.full_like(self.blocks_RM, NULL_BLOCK)
        for room in self._rooms.values():
            expected[room.row, : len(room.blocks)] = torch.tensor(room.blocks)
        assert torch.equal(expected, self.blocks_RM), "the block tables do not show who owns what"

    def _find(self, hashes: Sequence[BlockHash]) -> list[int]:
        """The blocks of the longest known beginning that a session can go on from."""
        found = self._pool.find(hashes)
        return found if self.sliding is None else found[: self.sliding.num_reusable(hashes, len(found))]

    def _append(self, room: _Room, blocks: Sequence[int]) -> None:
        if not blocks:
            return
        size, row, num_before = self.block_size, room.row, len(room.blocks)
        begin = self._run_starts[row] if num_before else blocks[0] * size
        is_run = begin is not None and all(
            block * size == begin + (num_before + i) * size for i, block in enumerate(blocks)
        )
        self._run_starts[row] = begin if is_run else None
        room.blocks += blocks
        self._memory_RM[row, num_before : len(room.blocks)] = blocks
        self.version += 1

    def _num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)


@dataclass(frozen=True, slots=True)
class SlidingLayers:
    """Layers whose pools hold windows, and the slots of each."""

    layers: frozenset[int]
    num_slots: int


class KvPools:
    """Keys and values of every layer that keeps its own, in slots; stands in for the library's cache.

    transformers calls `update` once per layer and hands what it returns to the attention function,
    directly or as the shared states of a later layer: the whole pools, so that both work alike.
    """

    def __init__(
        self,
        *,
        layer_shapes: Mapping[int, tuple[int, int]],
        num_slots: int,
        dtype: torch.dtype,
        device: str,
        sliding: SlidingLayers | None = None,
    ) -> None:
        self._sliding = sliding.layers if sliding is not None else frozenset()
        sizes = {
            layer: sliding.num_slots if sliding and layer in sliding.layers else num_slots for layer in layer_shapes
        }
        self._pools = {
            layer: (
                torch.zeros(sizes[layer], num_kv_heads, head_dim, dtype=dtype, device=device),
                torch.zeros(sizes[layer], num_kv_heads, head_dim, dtype=dtype, device=device),
            )
            for layer, (num_kv_heads, head_dim) in layer_shapes.items()
        }
        # A round reads a few entries, and any operation of torch's takes longer than copying them.
        self._memory = {layer: tuple(map(_memory_of, pools)) for layer, pools in self._pools.items() if device == "cpu"}
        self._slots_N: torch.Tensor | None = None
        self._sliding_slots_N: torch.Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all pools."""
        return sum(keys_SGD.nbytes + values_SGD.nbytes for keys_SGD, values_SGD in self._pools.values())

    def begin_step(self, slots_N: torch.Tensor, sliding_slots_N: torch.Tensor | None = None) -> None:
        """Name the slots that the next forward pass writes, in the order of its packed tokens.

        Layers with a pool for their window have slots of their own.
        """
        self._slots_N, self._sliding_slots_N = slots_N, sliding_slots_N

    def update(
        self, keys_1GND: torch.Tensor, values_1GND: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new entries; return its pools, each of shape (S, G, D)."""
        slots_N = self._sliding_slots_N if layer_idx in self._sliding else self._slots_N
        assert slots_N is not None, "begin_step comes before the forward pass"
        keys_SGD, values_SGD = self._pools[layer_idx]
        keys_SGD.index_copy_(0, slots_N, keys_1GND[0].transpose(0, 1))
        values_SGD.index_copy_(0, slots_N, values_1GND[0].transpose(0, 1))
        return keys_SGD, values_SGD

    def whole(self, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's pools themselves, each of shape (S, G, D)."""
        return self._pools[layer_idx]

    def read(self, layer_idx: int, places: Sequence[slice]) -> tuple[bytes, bytes]:
        """The raw bytes of a layer's keys and values at P slots, each (P, G, D)."""
        if self._memory:
            keys, values = self._memory[layer_idx]
            return _joined(keys, places), _joined(values, places)
        keys_SGD, values_SGD = self._pools[layer_idx]
        return _gathered(keys_SGD, places), _gathered(values_SGD, places)

    def check_integrity(self, block_size: int) -> None:
        """Assert that nothing has written to the null block."""
        for layer, pools in self._pools.items():
            for pool_SGD in pools:
                assert not pool_SGD[:block_size].any(), f"layer {layer} wrote to the null block"


@dataclass(frozen=True, slots=True)
class _Memory:
    """A pool in the host's memory, as bytes; not a copy."""

    content: memoryview
    slot_bytes: int


def _memory_of(pool_SGD: torch.Tensor) -> _Memory:
    return _Memory(pool_SGD.view(torch.uint8).view(-1).numpy().data, pool_SGD.nbytes // len(pool_SGD))


def _joined(pool: _Memory, places: Sequence[slice]) -> bytes:
    """The bytes of some slots of a pool in the host's memory."""
    size = pool.slot_bytes
    return b"".join([pool.content[place.start * size : place.stop * size] for place in places])


def _gathered(pool_SGD: torch.Tensor, places: Sequence[slice]) -> bytes:
    """The bytes of some slots of a pool in another memory, brought over at once."""
    if not places:
        return b""
    gathered_PGD = torch.cat([pool_SGD[place] for place in places]).cpu()
    data: bytes = gathered_PGD.view(torch.uint8).numpy().tobytes()
    return data
