"""A back-off from drafters that stay silent."""

from __future__ import annotations

import msgspec

MAX_SKIPPED_ROUNDS = 64


class Patience(msgspec.Struct, frozen=True):
    """What a session has learnt about its drafter's punctuality."""

    num_misses: int = 0
    num_rounds_to_skip: int = 0


def lookahead_for(requested: int | None, configured: int, maximum: int, patience: Patience) -> int:
    """The number of tokens to draft in the next round; `requested` None leaves it to the configuration."""
    if patience.num_rounds_to_skip > 0:
        return 0
    return min(configured if requested is None else requested, maximum)


def after_miss(patience: Patience) -> Patience:
    """A proposal did not come in time: skip one round, then two, four, ... before the drafter is asked again."""
    num_misses = patience.num_misses + 1
    return Patience(num_misses=num_misses, num_rounds_to_skip=min(2 ** (num_misses - 1), MAX_SKIPPED_ROUNDS))


def after_proposal() -> Patience:
    """A proposal came: full patience again."""
    return Patience()


def after_skipped_round(patience: Patience) -> Patience:
    """A round went by without asking the drafter."""
    if patience.num_rounds_to_skip == 0:
        return patience
    return Patience(num_misses=patience.num_misses, num_rounds_to_skip=patience.num_rounds_to_skip - 1)
