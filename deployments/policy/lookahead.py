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
    """Lookaheads in the order of the candidates, the cap, the least weighted survival taken, tokens per ms, and the
    time of the cycle.
    """

    lookaheads: tuple[int, ...]
    cap: int
    threshold: float
    rate: float
    cycle_ms: float


def choose(candidates: Sequence[Candidate], cycle_ms: CycleTimes, max_cap: int, max_tokens: int) -> Choice:
    """The lookaheads with the highest rate of expected tokens; no more than `max_tokens` are drafted in all."""
    return better(*choose_both(candidates, cycle_ms, max_cap, max_tokens))


def better(bare: Choice, drafted: Choice | None) -> Choice:
    """The one with the higher rate."""
    return drafted if drafted is not None and drafted.rate > bare.rate else bare


def choose_both(
    candidates: Sequence[Candidate], cycle_ms: CycleTimes, max_cap: int, max_tokens: int
) -> tuple[Choice, Choice | None]:
    """The best lookaheads that wait for nobody's draft, and the best that do: None where nothing is worth drafting."""
    pairs = _pairs(candidates, max_cap)
    base = sum(candidate.weight for candidate in candidates)

    def best_of(cap: int) -> tuple[float, int, int, float]:
        values = [-pair[0] for pair in pairs if pair[1] <= cap][:max_tokens]
        gains = accumulate(values, initial=base)
        times_ms = cycle_ms(cap, len(values))
        rates = [gain / time_ms for gain, time_ms in zip(gains, times_ms, strict=False)]
        top = max(rates)
        count = rates.index(top)
        return top, cap, count, times_ms[count]

    def choice(rate: float, cap: int, count: int, time_ms: float) -> Choice:
        taken = [pair for pair in pairs if pair[1] <= cap][:count]
        lookaheads = [0] * len(candidates)
        for pair in taken:
            lookaheads[pair[2]] += 1
        return Choice(tuple(lookaheads), cap, -taken[-1][0] if taken else float("inf"), rate, time_ms)

    bare = choice(*best_of(0))
    longest = max((pair[1] for pair in pairs), default=0)
    if not longest or not max_tokens:
        return bare, None
    drafted = choice(*max((best_of(cap) for cap in range(1, longest + 1)), key=lambda best: best[0]))
    return bare, drafted if any(drafted.lookaheads) else None


def choose_alone(candidate: Candidate, times_ms: Sequence[float]) -> tuple[Choice, Choice | None]:
    """`choose_both` for one session; `times_ms` are its cycle's, by lookahead."""
    gain = candidate.weight
    bare = Choice((0,), 0, float("inf"), gain / times_ms[0], times_ms[0])
    best, best_rate = 0, 0.0
    for lookahead, (chance, time_ms) in enumerate(zip(candidate.survival, times_ms[1:], strict=False), start=1):
        if chance < WORTH_ASKING:
            break
        gain += candidate.weight * chance
        if gain > best_rate * time_ms:
            best, best_rate = lookahead, gain / time_ms
    if not best:
        return bare, None
    return bare, Choice((best,), best, candidate.weight * candidate.survival[best - 1], best_rate, times_ms[best])


def score(lookaheads: Sequence[int], candidates: Sequence[Candidate], cycle_ms: CycleTimes) -> Choice:
    """Given lookaheads by the same account; as they were not chosen, their threshold is infinite."""
    gain, cap, total = 0.0, 0, 0
    for lookahead, candidate in zip(lookaheads, candidates, strict=True):
        gain += candidate.weight * (1.0 + sum(candidate.survival[:lookahead]))
        total += lookahead
        if not candidate.is_free:
            cap = max(cap, lookahead)
    time_ms = cycle_ms(cap, total)[total]
    return Choice(tuple(lookaheads), cap, float("inf"), gain / time_ms, time_ms)


class Search(NamedTuple):
    """The question of one plan; `alone_ms` are the times of a cycle by lookahead where there is but one session."""

    candidates: Sequence[Candidate]
    cycle_ms: CycleTimes
    max_cap: int
    max_tokens: int
    alone_ms: Sequence[float] = ()

    def best(self) -> tuple[Choice, Choice | None]:
        """The best that waits for nobody's draft, and the best that does."""
        if self.alone_ms:
            return choose_alone(self.candidates[0], self.alone_ms)
        return choose_both(self.candidates, self.cycle_ms, self.max_cap, self.max_tokens)

    def score(self, lookaheads: Sequence[int]) -> Choice:
        """Given lookaheads."""
        return score(lookaheads, self.candidates, self.cycle_ms)


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
