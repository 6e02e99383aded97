"""Which variant of the settings a request gets: by weight, the same one for the same key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

_SCALE = float(1 << 64)


def assign(weights: Mapping[str, float], key: bytes) -> str | None:
    """The name that the key falls on, each with a share of the keys as large as its weight's; None without weight.

    The names stand in the order of the alphabet, so that a changed weight moves no more keys than it must.
    """
    total = sum(weights.values())
    if total <= 0.0:
        return None
    place = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / _SCALE * total
    names = sorted(name for name, weight in weights.items() if weight > 0.0)
    for name in names:
        place -= weights[name]
        if place < 0.0:
            return name
    return names[-1]  # what rounding leaves
