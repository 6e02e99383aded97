"""What a verifier probably holds of a text, as far as a router can know: what it has sent there itself.

A wrong guess costs the computing of a prompt and nothing else.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from deployments.messages import Token

BLOCK_TOKENS = 64
"""A shorter beginning that is shared is that of a chat template, which says nothing."""
_MAX_BLOCKS = 256
"""Of a text so many blocks are looked at."""


def beginnings(tokens: Sequence[Token], salt: str) -> list[bytes]:
    """A key for every beginning of a text in whole blocks; the same key for those that may share cache entries."""
    keys, key = [], key_of((), salt)
    for stop in range(BLOCK_TOKENS, min(len(tokens), _MAX_BLOCKS * BLOCK_TOKENS) + 1, BLOCK_TOKENS):
        key = blake2b(array("Q", tokens[stop - BLOCK_TOKENS : stop]).tobytes(), digest_size=16, key=key).digest()
        keys.append(key)
    return keys


def key_of(tokens: Sequence[Token], salt: str) -> bytes:
    """A key for a text that is shorter than a block."""
    return blake2b(array("Q", tokens).tobytes(), digest_size=16, person=_folded(salt)).digest()


class PrefixMemory:
    """The texts that one verifier was given last, as many tokens of them as its cache holds."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()
        self._max_keys = 0

    def has_room_for(self, num_tokens: int) -> None:
        """The verifier keeps the entries of so many tokens; 0 if it lets nobody share them."""
        self._max_keys = num_tokens // BLOCK_TOKENS
        self._shrink()

    def note(self, keys: Sequence[bytes]) -> None:
        """The verifier computes, or has computed, a text with these beginnings."""
        for key in reversed(keys):  # the end of a text is of use to the fewest, and goes first
            self._keys[key] = None
            self._keys.move_to_end(key)
        self._shrink()

    def num_held(self, keys: Sequence[bytes]) -> int:
        """How many tokens of a text with these beginnings it holds."""
        num_blocks = next((index for index, key in enumerate(keys) if key not in self._keys), len(keys))
        return num_blocks * BLOCK_TOKENS

    def _shrink(self) -> None:
        while len(self._keys) > self._max_keys:
            self._keys.popitem(last=False)


def _folded(salt: str) -> bytes:
    return blake2b(salt.encode(), digest_size=16).digest()
