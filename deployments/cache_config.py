"""The part of the configuration that says how much a cache holds."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from deployments.config_parts import Part


class KvCacheConfig(Part):
    """A cache of keys and values, in each process that computes.

    "auto" is what `memory_bytes`, or the role's own budget, has room for, and without one 16 sessions of the longest
    context.
    """

    num_tokens: PositiveInt | Literal["auto"] = "auto"
    memory_bytes: PositiveInt | None = None
    block_size: PositiveInt = 16

    def resolved(self, longest: int, *, is_bounded: bool = False) -> int | Literal["auto"]:
        """The number of tokens, where it follows from the longest session; "auto" under a budget in bytes."""
        if self.num_tokens != "auto":
            return self.num_tokens
        return "auto" if is_bounded or self.memory_bytes is not None else 16 * longest
