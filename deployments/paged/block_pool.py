"""A pool of equal blocks: free, owned by one session or several that begin alike, or kept for who begins alike later.

A block whose tokens are known by hash can belong to several sessions; none of them writes to it any more. Let go of,
it stays findable until its room is needed.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence

from deployments.paged.prefix_index import BlockHash, PrefixIndex

NULL_BLOCK = 0
"""Never handed out, always zero: padding reads it, so what padding reads is finite."""


def spans(blocks: Sequence[int], block_size: int, start: int, stop: int) -> list[slice]:
    """The slots of positions [start, stop) of these blocks, in order, as few spans as there are."""
    found: list[slice] = []
    while start < stop:
        index, offset = divmod(start, block_size)
        first = blocks[index] * block_size + offset
        num = min(block_size - offset, stop - start)
        if found and found[-1].stop == first:
            found[-1] = slice(found[-1].start, first + num)
        else:
            found.append(slice(first, first + num))
        start += num
    return found


class BlockPool:
    """Blocks 1 to `num_blocks`, and who may find them."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks, NULL_BLOCK, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()  # nobody's, but findable; the oldest goes first
        self._num_owners = [0] * (num_blocks + 1)
        self._index = PrefixIndex()

    @property
    def num_available(self) -> int:
        """Blocks that can be taken."""
        return len(self._free) + len(self._kept)

    @property
    def usage(self) -> float:
        """Share of all blocks that somebody owns, 0 to 1."""
        return 1.0 - self.num_available / self.num_blocks

    def take(self) -> int:
        """A block for one owner: a free one, else the one that has been kept for the longest."""
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._kept.popitem(last=False)
            self._index.forget(block)
        self._num_owners[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more owner for a block that was found."""
        self._num_owners[block] += 1
        self._kept.pop(block, None)

    def let_go(self, block: int) -> None:
        """One owner less; the last one leaves it free, or kept if it can be found."""
        self._num_owners[block] -= 1
        if self._num_owners[block] == 0:
            if block in self._index:
                self._kept[block] = None
            else:
                self._free.append(block)

    def find(self, hashes: Sequence[BlockHash]) -> list[int]:
        """The blocks of the longest known beginning."""
        return self._index.find(hashes)

    def has(self, block_hash: BlockHash) -> bool:
        """Whether a block of this hash can be found."""
        return bool(self._index.find((block_hash,)))

    def num_owned(self, blocks: Sequence[int]) -> int:
        """How many of these somebody owns, so that sharing them takes nothing from what is available."""
        return sum(self._num_owners[block] > 0 for block in blocks)

    def publish(self, block: int, block_hash: BlockHash) -> None:
        """The block is full and committed: it may be found from now on."""
        self._index.add(block, block_hash)

    def withdraw(self, block: int) -> None:
        """The block will be overwritten: nobody finds it any more, and nobody shares it. Idempotent."""
        assert self._num_owners[block] == 1, "entries that another session shares do not change"
        self._index.forget(block)

    def check_integrity(self, owned: Sequence[int]) -> None:
        """Assert that every block is free, kept, or owned by those whose blocks `owned` lists."""
        counts = Counter(owned)
        assert all(counts[block] == number for block, number in enumerate(self._num_owners)), "owners are miscounted"
        everywhere = sorted([*counts, *self._free, *self._kept])
        assert everywhere == list(range(1, self.num_blocks + 1)), "a block is lost, or owned and free"
        assert all(block in self._index for block in self._kept), "a block is kept that nobody can find"
        assert not any(block in self._index for block in self._free), "a free block can be found"
        assert all(block in self._index for block in counts if counts[block] > 1), "a block is shared that may change"
