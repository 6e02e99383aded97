"""How far to look ahead: a joint search over all sessions of a verifier.

Of the pairs (session, position) with a position up to a cap, the likeliest are taken first; each such
prefix is scored by the tokens that it is expected to commit over the time that it takes. A step's time
is a staircase, so every prefix is scored. Since that time depends on the cap and on the number of tokens
alone, no vector of lookaheads scores higher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

WORTH_ASKING = 0.01
"""A position that is less likely to hold than this is never worth its place in a step."""


CycleTimes = Callable[[int, int], Sequence[float]]
"""(longest drafted lookahead, most tokens) -> a cycle's time by the tokens drafted in all, from 0 to the most."""


class Candidate(NamedTuple):
    """A session as the search sees it: the `survival` of its positions, as far as it may look ahead.

    `weight` is what a token of it counts. A free draft needs no drafter (prompt lookup), or is
    there already: it exposes no time.
    """

    survival: Sequence[float]
    weight: float = 1.0
    is_free: bool = False


class Choice(NamedTuple):
    """Lookaheads in the order of the candidates, the cap, the least weighted survival taken, and tokens per ms."""

    lookaheads: tuple[int, ...]
    cap: int
    threshold: float
    rate: float


def choose(candidates: Sequence[Candidate], cycle_ms: CycleTimes, max_cap: int, max_tokens: int) -> Choice:
    """The lookaheads with the highest rate of expected tokens; no more than `max_tokens` are drafted in all."""
    pairs = _pairs(candidates, max_cap)
    base = sum(candidate.weight for candidate in candidates)
    best, best_cap, best_count = 0.0, 0, 0
    for cap in range(max((pair[1] for pair in pairs), default=0) + 1):
        values = [-pair[0] for pair in pairs if pair[1] <= cap][:max_tokens]
        gains = accumulate(values, initial=base)
        rates = [gain / time_ms for gain, time_ms in zip(gains, cycle_ms(cap, len(values)), strict=False)]
        top = max(rates)
        if top > best:
            best, best_cap, best_count = top, cap, rates.index(top)
    taken = [pair for pair in pairs if pair[1] <= best_cap][:best_count]
    lookaheads = [0] * len(candidates)
    for pair in taken:
        lookaheads[pair[2]] += 1
    threshold = -taken[-1][0] if taken else float("inf")
    return Choice(tuple(lookaheads), best_cap, threshold, best)


def rate_of(lookaheads: Sequence[int], candidates: Sequence[Candidate], cycle_ms: CycleTimes) -> float:
    """The expected tokens per ms of given lookaheads, by the same account."""
    gain, cap, total = 0.0, 0, 0
    for lookahead, candidate in zip(lookaheads, candidates, strict=True):
        gain += candidate.weight * (1.0 + sum(candidate.survival[:lookahead]))
        total += lookahead
        if not candidate.is_free:
            cap = max(cap, lookahead)
    return gain / cycle_ms(cap, total)[total]


def _pairs(candidates: Sequence[Candidate], max_cap: int) -> list[tuple[float, int, int]]:
    """(minus weighted survival, position as far as it exposes time, index), the likeliest first.

    Survival never rises along a session, and equal pairs stand by position: a prefix of the list
    takes a prefix of every session.
    """
    pairs = []
    for index, (survival, weight, is_free) in enumerate(candidates):
        for position, chance in enumerate(survival[: None if is_free else max_cap], start=1):
            if chance < WORTH_ASKING:
                break
            pairs.append((-weight * chance, 0 if is_free else position, index))
    pairs.sort()
    return pairs
