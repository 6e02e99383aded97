"""Block tables of the layers that see a window: of every session they hold its last entries and no more.

A session keeps what its next position sees, as much more as it may roll back, and during a step the step's own entries.
Blocks that fall behind go back at once; published, they stay findable, as a session that begins alike needs the window
before its beginning.

Shapes: R table rows, M blocks of the longest session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from deployments.paged.block_pool import NULL_BLOCK, BlockPool, spans
from deployments.paged.prefix_index import BlockHash


@dataclass(slots=True)
class _Held:
    """Blocks of the columns from `first` on."""

    first: int = 0
    blocks: list[int] = field(default_factory=list)

    @property
    def stop(self) -> int:
        return self.first + len(self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingShape:
    """A window in tokens, how far a session may roll back, and the blocks of the pool."""

    window: int
    max_rollback: int
    num_blocks: int


class SlidingTables:
    """Who owns which blocks of the sliding layers, by table row. Columns that are not held show the null block."""

    version = 0
    """Changes whenever `blocks_RM` does."""

    def __init__(self, shape: SlidingShape, *, block_size: int, full_blocks_RM: torch.Tensor) -> None:
        self.window = shape.window
        self._keep = shape.window + shape.max_rollback
        self.block_size = block_size
        self.blocks_RM = torch.full_like(full_blocks_RM, NULL_BLOCK)
        self._memory_RM = self.blocks_RM.numpy()
        self._pool = BlockPool(shape.num_blocks)
        self._held: dict[int, _Held] = {}

    def num_reusable(self, hashes: Sequence[BlockHash], num_found: int) -> int:
        """How many of the first `num_found` blocks can be begun with: the window before their end must be known."""
        is_known = [self._pool.has(block_hash) for block_hash in hashes[:num_found]]
        best = run = 0
        for index, known in enumerate(is_known):
            run = run + 1 if known else 0
            if run >= index + 1 - self._first_column((index + 1) * self.block_size, self.window):
                best = index + 1
        return best

    def open(self, row: int, hashes: Sequence[BlockHash]) -> None:
        """Begin a session with the window before the end of these blocks."""
        first = self._first_column(len(hashes) * self.block_size, self.window)
        blocks = self._pool.find(hashes[first:])
        assert len(blocks) == len(hashes) - first, "the window before a beginning is known"
        for block in blocks:
            self._pool.share(block)
        self._held[row] = held = _Held(first)
        self._append(row, held, blocks)

    def prepare(self, row: int, stop: int) -> None:
        """Have blocks for everything before `stop`."""
        held = self._held[row]
        num_more = -(-stop // self.block_size) - held.stop
        assert num_more <= self._pool.num_available, "a step is larger than the sliding pool was made for"
        self._append(row, held, [self._pool.take() for _ in range(num_more)])

    def trim(self, row: int, computed_len: int) -> None:
        """Give back what no position from `computed_len` on sees."""
        held = self._held[row]
        num_less = min(len(held.blocks), self._first_column(computed_len, self._keep) - held.first)
        if num_less > 0:
            for block in held.blocks[:num_less]:
                self._pool.let_go(block)
            del held.blocks[:num_less]
            self._memory_RM[row, held.first : held.first + num_less] = NULL_BLOCK
            self.version += 1
            held.first += num_less

    def release(self, row: int) -> None:
        """Take a session's blocks back."""
        for block in reversed(self._held.pop(row).blocks):
            self._pool.let_go(block)
        self._memory_RM[row] = NULL_BLOCK
        self.version += 1

    def first_held(self, row: int) -> int:
        """The first position whose entry is held."""
        return self._held[row].first * self.block_size

    def publish(self, row: int, index: int, block_hash: BlockHash) -> None:
        """The block in this column is full and committed."""
        held = self._held[row]
        if held.first <= index < held.stop:
            self._pool.publish(held.blocks[index - held.first], block_hash)

    def withdraw(self, row: int, start: int) -> None:
        """Entries from `start` on will be overwritten; they lie no further back than `max_rollback`."""
        held = self._held[row]
        assert held.first <= self._first_column(start, self.window), "a rollback goes back further than max_rollback"
        for block in held.blocks[start // self.block_size - held.first :]:
            self._pool.withdraw(block)

    def spans(self, row: int, start: int, stop: int) -> list[slice]:
        """The slots of positions [start, stop), which are held."""
        held = self._held[row]
        begin = held.first * self.block_size
        assert start >= begin or start >= stop, "entries that have been let go of"
        return spans(held.blocks, self.block_size, start - begin, stop - begin)

    def check_integrity(self) -> None:
        """Assert that every block is free or owned exactly once, and that the tables say so."""
        self._pool.check_integrity([block for held in self._held.values() for block in held.blocks])
        expected = torch.full_like(self.blocks_RM, NULL_BLOCK)
        for row, held in self._held.items():
            expected[row, held.first : held.stop] = torch.tensor(held.blocks, dtype=torch.int64)
        assert torch.equal(expected, self.blocks_RM), "the sliding tables do not show who owns what"

    def _first_column(self, computed_len: int, num_back: int) -> int:
        """The first column with an entry that lies no further back than this."""
        return max(0, computed_len - num_back) // self.block_size

    def _append(self, row: int, held: _Held, blocks: Sequence[int]) -> None:
        if blocks:
            self._memory_RM[row, held.stop : held.stop + len(blocks)] = blocks
            held.blocks += blocks
            self.version += 1
