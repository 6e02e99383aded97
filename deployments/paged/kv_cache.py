"""The paged KV cache: pools of slots per layer, and block tables that map a session's positions to them.

Room is reserved whole when a session opens, so a step never runs out of memory. A block whose tokens are known by
hash can belong to several sessions that begin alike; none of them writes to it any more. Released, it stays
findable until its room is needed.

Shapes: S slots of a pool, N new entries, G kv heads, D head dimension, R table rows (one per open
session), M blocks of the longest session, P positions.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from deployments.messages import SessionId
from deployments.paged.prefix_index import BlockHash, PrefixIndex

NULL_BLOCK = 0
"""Never handed out, always zero: padding reads it, so what padding reads is finite."""


@dataclass(slots=True, kw_only=True)
class _Reservation:
    row: int
    blocks: list[int]
    computed_len: int = 0


class BlockTables:
    """Who owns which blocks, and how far each session's cache is filled.

    A session's computed length counts the entries that are valid; whatever its blocks hold beyond
    is garbage that the next step overwrites.
    """

    def __init__(
        self, *, num_blocks: int, block_size: int, max_sessions: int, max_session_tokens: int, device: str
    ) -> None:
        self.block_size = block_size
        self.max_session_tokens = max_session_tokens
        self._num_blocks = num_blocks
        self._free_blocks = list(range(num_blocks, NULL_BLOCK, -1))
        self._kept_blocks: OrderedDict[int, None] = OrderedDict()  # nobody's, but findable; the oldest goes first
        self._num_owners = [0] * (num_blocks + 1)
        self._index = PrefixIndex()
        self._free_rows = list(range(max_sessions - 1, -1, -1))
        self._reservations: dict[SessionId, _Reservation] = {}
        self._run_starts: list[int | None] = [None] * max_sessions
        max_blocks = -(-max_session_tokens // block_size)
        self.blocks_RM = torch.full((max_sessions, max_blocks), NULL_BLOCK, dtype=torch.int64, device=device)

    def __contains__(self, session: SessionId) -> bool:
        return session in self._reservations

    @property
    def usage(self) -> float:
        """Share of all blocks that open sessions have reserved, 0 to 1."""
        return 1.0 - self._num_available / self._num_blocks

    def has_room(self, num_tokens: int) -> bool:
        """Whether a session of `num_tokens` entries fits beside those that are open."""
        num_blocks = self._num_blocks_for(num_tokens)
        return bool(self._free_rows) and num_blocks <= min(self._num_available, self.blocks_RM.shape[1])

    def reserve(self, session: SessionId, num_tokens: int, hashes: Sequence[BlockHash] = ()) -> int:
        """Give a session room for `num_tokens` entries; ValueError when there is none.

        Where blocks of these hashes, from the first on, are known, the session shares them. Returns how many entries
        that makes valid; they can no longer be overwritten.
        """
        assert session not in self._reservations, f"session {session} is open already"
        if not self.has_room(num_tokens):
            raise ValueError(
                f"no room for {num_tokens} KV entries: {self._num_available} blocks of {self.block_size} and "
                f"{len(self._free_rows)} session rows are free; ask can_open first, or give the cache more tokens"
            )
        blocks = self._index.find(hashes)
        num_reused = len(blocks) * self.block_size
        for block in blocks:
            self._num_owners[block] += 1
            self._kept_blocks.pop(block, None)
        blocks += [self._take() for _ in range(self._num_blocks_for(num_tokens) - len(blocks))]
        row = self._free_rows.pop()
        self.blocks_RM[row, : len(blocks)] = torch.tensor(blocks, device=self.blocks_RM.device)
        self._reservations[session] = _Reservation(row=row, blocks=blocks, computed_len=num_reused)
        is_run = blocks == list(range(blocks[0], blocks[0] + len(blocks)))
        self._run_starts[row] = blocks[0] * self.block_size if is_run else None
        return num_reused

    def release(self, session: SessionId) -> None:
        """Take a session's room back. Idempotent."""
        reservation = self._reservations.pop(session, None)
        if reservation is None:
            return
        # The last first: it is of use only to who shares all before it.
        for block in reversed(reservation.blocks):
            self._num_owners[block] -= 1
            if self._num_owners[block] == 0:
                self._let_go(block)
        self._free_rows.append(reservation.row)
        self.blocks_RM[reservation.row].fill_(NULL_BLOCK)

    def publish(self, session: SessionId, index: int, block_hash: BlockHash) -> None:
        """The session's block at this index is full and committed: sessions that begin alike may share it."""
        self._index.add(self._reservations[session].blocks[index], block_hash)

    def withdraw(self, session: SessionId, start: int) -> None:
        """Entries from `start` on will be overwritten: nobody finds their blocks any more, and nobody shares them."""
        for block in self._reservations[session].blocks[start // self.block_size :]:
            assert self._num_owners[block] == 1, "entries that another session shares do not change"
            self._index.forget(block)

    def row(self, session: SessionId) -> int:
        """The session's row of `blocks_RM`."""
        return self._reservations[session].row

    def run_start(self, row: int) -> int | None:
        """The slot of position 0 when the row's blocks are consecutive, so that its entries are too."""
        return self._run_starts[row]

    def capacity(self, session: SessionId) -> int:
        """How many entries the session has room for."""
        return len(self._reservations[session].blocks) * self.block_size

    def computed_len(self, session: SessionId) -> int:
        """How many entries, from position 0 on, are valid."""
        return self._reservations[session].computed_len

    def set_computed_len(self, session: SessionId, computed_len: int) -> None:
        """Declare entries [0, computed_len) valid and the rest garbage."""
        assert 0 <= computed_len <= self.capacity(session), "computed length outside the reservation"
        self._reservations[session].computed_len = computed_len

    def slots(self, session: SessionId, start: int, stop: int) -> torch.Tensor:
        """The slots of positions [start, stop), shape (stop - start,)."""
        positions = torch.arange(start, stop, device=self.blocks_RM.device)
        blocks = self.blocks_RM[self.row(session)].index_select(0, positions // self.block_size)
        return blocks * self.block_size + positions % self.block_size

    def slots_or_slice(self, session: SessionId, start: int, stop: int) -> torch.Tensor | slice:
        """The same, as a slice where the session's blocks lie side by side: reading needs no gather then."""
        begin = self.run_start(self.row(session))
        return self.slots(session, start, stop) if begin is None else slice(begin + start, begin + stop)

    def check_integrity(self) -> None:
        """Assert that every block and row is free or owned exactly once, and that the tables say so."""
        owned = [block for reservation in self._reservations.values() for block in reservation.blocks]
        counts = Counter(owned)
        assert all(counts[block] == number for block, number in enumerate(self._num_owners)), "owners are miscounted"
        everywhere = sorted([*counts, *self._free_blocks, *self._kept_blocks])
        assert everywhere == list(range(1, self._num_blocks + 1)), "a block is lost, or owned and free"
        assert all(block in self._index for block in self._kept_blocks), "a block is kept that nobody can find"
        assert not any(block in self._index for block in self._free_blocks), "a free block can be found"
        assert all(block in self._index for block in counts if counts[block] > 1), "a block is shared that may change"
        rows = [reservation.row for reservation in self._reservations.values()]
        assert sorted(rows + self._free_rows) == list(range(self.blocks_RM.shape[0])), "a row is lost or shared"
        expected = torch.full_like(self.blocks_RM, NULL_BLOCK)
        for reservation in self._reservations.values():
            expected[reservation.row, : len(reservation.blocks)] = torch.tensor(reservation.blocks)
        assert torch.equal(expected, self.blocks_RM), "the block tables do not show who owns what"

    @property
    def _num_available(self) -> int:
        return len(self._free_blocks) + len(self._kept_blocks)

    def _take(self) -> int:
        """A block for one owner: a free one, else the one that has been kept for the longest."""
        if self._free_blocks:
            block = self._free_blocks.pop()
        else:
            block, _ = self._kept_blocks.popitem(last=False)
            self._index.forget(block)
        self._num_owners[block] = 1
        return block

    def _let_go(self, block: int) -> None:
        if block in self._index:
            self._kept_blocks[block] = None
        else:
            self._free_blocks.append(block)

    def _num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)


class KvPools:
    """Keys and values of every layer that keeps its own, in slots; stands in for the library's cache.

    transformers calls `update` once per layer and hands what it returns to the attention function,
    directly or as the shared states of a later layer: the whole pools, so that both work alike.
    """

    def __init__(
        self, *, layer_shapes: Mapping[int, tuple[int, int]], num_slots: int, dtype: torch.dtype, device: str
    ) -> None:
        self._pools = {
            layer: (
                torch.zeros(num_slots, num_kv_heads, head_dim, dtype=dtype, device=device),
                torch.zeros(num_slots, num_kv_heads, head_dim, dtype=dtype, device=device),
            )
            for layer, (num_kv_heads, head_dim) in layer_shapes.items()
        }
        self._slots_N: torch.Tensor | None = None

    def begin_step(self, slots_N: torch.Tensor) -> None:
        """Name the slots that the next forward pass writes, in the order of its packed tokens."""
        self._slots_N = slots_N

    def update(
        self, keys_1GND: torch.Tensor, values_1GND: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new entries; return its pools, each of shape (S, G, D)."""
        assert self._slots_N is not None, "begin_step comes before the forward pass"
        keys_SGD, values_SGD = self._pools[layer_idx]
        keys_SGD.index_copy_(0, self._slots_N, keys_1GND[0].transpose(0, 1))
        values_SGD.index_copy_(0, self._slots_N, values_1GND[0].transpose(0, 1))
        return keys_SGD, values_SGD

    def whole(self, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's pools themselves, each of shape (S, G, D)."""
        return self._pools[layer_idx]

    def read(self, layer_idx: int, slots: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values at P slots, each of shape (P, G, D): views for a slice, else copies."""
        keys_SGD, values_SGD = self._pools[layer_idx]
        if isinstance(slots, slice):
            return keys_SGD[slots], values_SGD[slots]
        return keys_SGD.index_select(0, slots), values_SGD.index_select(0, slots)

    def check_integrity(self, block_size: int) -> None:
        """Assert that nothing has written to the null block."""
        for layer, pools in self._pools.items():
            for pool_SGD in pools:
                assert not pool_SGD[:block_size].any(), f"layer {layer} wrote to the null block"
