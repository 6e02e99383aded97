"""Whether a verifier steps now or waits for proposals that are about to arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple

LATE = 2.0
"""A proposal that has taken this many times as long as expected is not waited for any more."""


class Group(NamedTuple):
    """Sessions that would share a step: how many, their tokens, what they are expected to commit, and how long
    they are away between a step and the next.
    """

    num_sequences: int
    num_tokens: int
    gain: float
    away_ms: float


def joined(groups: Sequence[Group]) -> Group:
    """All of them in one step: it begins when the last has come back."""
    return Group(
        sum(group.num_sequences for group in groups),
        sum(group.num_tokens for group in groups),
        sum(group.gain for group in groups),
        max((group.away_ms for group in groups), default=0.0),
    )


def is_worth_waiting(ready: Group, expected: Group, step_ms: Callable[[int, int], float]) -> bool:
    """Whether one common step per cycle commits more per ms than a step for each.

    `step_ms` takes sequences and tokens. Apart, those that are back sooner may run more often while the
    others are away, and those that come back while a step runs share the next one with them: splitting pays
    where steps are cheap beside the drafts, joining where reading the weights is what a step costs.
    """
    together = joined((ready, expected))
    both_ms = step_ms(together.num_sequences, together.num_tokens)
    rate_together = together.gain / (both_ms + together.away_ms)
    ready_ms = step_ms(ready.num_sequences, ready.num_tokens)
    expected_ms = step_ms(expected.num_sequences, expected.num_tokens)
    # Apart in steps of their own.
    cycle_ms = max(ready_ms + expected_ms, expected_ms + expected.away_ms, ready_ms + ready.away_ms)
    turns = max(1, int((cycle_ms - expected_ms) / (ready_ms + ready.away_ms)))
    rate_apart = (expected.gain + turns * ready.gain) / cycle_ms
    # Those that are ready go on stepping, and take the others along whenever they are back.
    alone_ms = ready_ms + ready.away_ms
    num_alone = max(1, ceil((expected.away_ms - ready.away_ms) / alone_ms))
    rate_along = (expected.gain + (num_alone + 1) * ready.gain) / (num_alone * alone_ms + both_ms + ready.away_ms)
    return rate_together >= max(rate_apart, rate_along)
