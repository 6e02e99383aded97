"""Which blocks hold the entries of which tokens, so that a session that begins like an earlier one computes less.

A block is known by a hash of everything up to its end: the salt of whoever may share it, and all tokens from
position 0 on. An entry depends on nothing else, so equal hashes mean equal entries (up to rounding).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from deployments.messages import Token

BlockHash = bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The tokens that a session begins with; `salt` keeps apart those who must not learn of each other's."""

    tokens: Sequence[Token]
    salt: str = ""


class PrefixTrail:
    """A session's committed tokens and the hashes of the blocks that they fill."""

    def __init__(self, salt: str, block_size: int) -> None:
        self._root = blake2b(salt.encode(), digest_size=32).digest()
        self._block_size = block_size
        self._tokens: list[Token] = []
        self._hashes: list[BlockHash] = []

    def write(self, start: int, tokens: Sequence[Token]) -> Iterator[tuple[int, BlockHash]]:
        """Replace what follows position `start`; yields index and hash of every block that becomes full."""
        assert start <= len(self._tokens), "tokens follow those that are known"
        del self._tokens[start:]
        del self._hashes[start // self._block_size :]
        self._tokens.extend(tokens)
        for index in range(len(self._hashes), len(self._tokens) // self._block_size):
            block = self._tokens[index * self._block_size : (index + 1) * self._block_size]
            parent = self._hashes[-1] if self._hashes else self._root
            self._hashes.append(blake2b(array("Q", block).tobytes(), digest_size=32, key=parent).digest())
            yield index, self._hashes[-1]


class PrefixIndex:
    """Blocks by hash; of two that hold the same entries the first one counts."""

    def __init__(self) -> None:
        self._block_of: dict[BlockHash, int] = {}
        self._hash_of: dict[int, BlockHash] = {}

    def __contains__(self, block: int) -> bool:
        return block in self._hash_of

    def add(self, block: int, block_hash: BlockHash) -> None:
        """Let others find this block from now on."""
        if block not in self._hash_of and block_hash not in self._block_of:
            self._block_of[block_hash] = block
            self._hash_of[block] = block_hash

    def forget(self, block: int) -> None:
        """Its entries will be overwritten. Idempotent."""
        block_hash = self._hash_of.pop(block, None)
        if block_hash is not None:
            del self._block_of[block_hash]

    def find(self, hashes: Sequence[BlockHash]) -> list[int]:
        """The blocks of the longest known beginning."""
        blocks: list[int] = []
        for block_hash in hashes:
            block = self._block_of.get(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks
