"""Whether a verifier steps now or waits for proposals that are about to arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple

LATE = 2.0
"""A proposal that has taken this many times as long as expected is not waited for any more."""

MARGIN = 1.04
"""How much better apart must be, for groups that are apart to stay so."""
SPLIT_MARGIN = 1.08
"""How much better apart must be, to part a group: more, so that groups do not part and join for ever."""

StepTimes = Callable[[int, int], float]
"""(sequences, tokens) -> a step's time."""


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


def is_worth_waiting(ready: Group, expected: Group, wait_ms: float, step_ms: StepTimes) -> bool:
    """Whether to hold those that are ready until the expected ones are here, `wait_ms` from now.

    One common step per cycle has to commit no less per ms than apart: those
    that are back sooner may run more often while the others are away, and those that come back while a step
    runs share the next one with them. Splitting pays where steps are cheap beside the drafts, joining where
    reading the weights is what a step costs; where neither matters, joining also spares the drafter. And of the
    two groups the one with less to lose waits: if not these now, then the others when they are back.
    """
    together = joined((ready, expected))
    both_ms = step_ms(together.num_sequences, together.num_tokens)
    ready_ms = step_ms(ready.num_sequences, ready.num_tokens)
    expected_ms = step_ms(expected.num_sequences, expected.num_tokens)
    if _delays_less(ready, expected, wait_ms, (ready_ms, expected_ms, both_ms)):
        return True
    others_wait_ms = ready_ms + ready.away_ms - wait_ms
    if ready.gain * wait_ms > expected.gain * others_wait_ms:
        return False
    rate_together = together.gain / (both_ms + together.away_ms)
    # Apart, in steps of their own.
    cycle_ms = max(ready_ms + expected_ms, expected_ms + expected.away_ms, ready_ms + ready.away_ms)
    turns = max(1, int((cycle_ms - expected_ms) / (ready_ms + ready.away_ms)))
    rate_apart = (expected.gain + turns * ready.gain) / cycle_ms
    # Those that are ready go on stepping, and take the others along whenever they are back.
    alone_ms = ready_ms + ready.away_ms
    num_alone = max(1, ceil((expected.away_ms - ready.away_ms) / alone_ms))
    rate_along = (expected.gain + (num_alone + 1) * ready.gain) / (num_alone * alone_ms + both_ms + ready.away_ms)
    return rate_together * MARGIN >= max(rate_apart, rate_along)


def _delays_less(ready: Group, expected: Group, wait_ms: float, steps_ms: tuple[float, float, float]) -> bool:
    """Whether waiting holds up less, token by token, than a step of the ready that the expected find under way."""
    ready_ms, expected_ms, both_ms = steps_ms
    if_stepping = expected.gain * (ready_ms - wait_ms)
    if_waiting = ready.gain * (wait_ms + both_ms - ready_ms) + expected.gain * (both_ms - expected_ms)
    return wait_ms < ready_ms and if_waiting < if_stepping


def is_worth_splitting(ready: Group, step_ms: StepTimes) -> bool:
    """Whether two halves that take turns, one drafted for while the other is verified, commit more per ms than one."""
    if ready.num_sequences < 2:
        return False
    half_ms = step_ms(ready.num_sequences // 2, ready.num_tokens // 2)
    cycle_ms = max(2 * half_ms, half_ms + ready.away_ms)
    return cycle_ms * SPLIT_MARGIN < step_ms(ready.num_sequences, ready.num_tokens) + ready.away_ms
