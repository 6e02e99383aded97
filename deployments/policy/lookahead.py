"""How far to look ahead: a joint search over all sessions of a verifier.

Of the pairs (session, position) with a position up to a cap, the likeliest are taken first; each such
prefix is scored by the tokens that it is expected to commit over the time that it takes. A step's time
is a staircase, so every prefix is scored. Since that time depends on the cap and on the number of tokens
alone, no vector of lookaheads scores higher.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deployments.policy.cycle import Cycle

WORTH_ASKING = 0.003
"""A position that is less likely to hold than this is never worth its place in a step."""

_HYSTERESIS = 1.003
"""A plan stays unless another one promises more than this."""

CycleTimes = NDArray[np.float64]
"""A cycle's time by the longest lookahead that is waited for, from 0 to the longest there may be, and by the tokens
drafted in all, from 0 to the most there may be."""


class Candidate(NamedTuple):
    """A session as the search sees it: the `survival` of its positions, as far as it may look ahead.

    `weight` is what a token of it counts. A free draft needs no drafter (prompt lookup), or is
    there already: it exposes no time. Where drafts may end early, `drafted` says how likely each position is reached.
    """

    survival: Sequence[float]
    weight: float = 1.0
    is_free: bool = False
    drafted: Sequence[float] = ()


class Choice(NamedTuple):
    """Lookaheads in the order of the candidates, the cap, the least weighted survival taken, tokens per ms, the time of
    the cycle, and how many tokens are likely to be drafted in it.
    """

    lookaheads: tuple[int, ...]
    cap: int
    threshold: float
    rate: float
    cycle_ms: float
    num_tokens: int = 0


class _Pairs(NamedTuple):
    """Positions worth asking for, the likeliest first: (pairs,) each.

    `values` is the weighted survival, `caps` the position as far as it exposes time, `owners` the candidate, `shares`
    how much of it is drafted. Survival
    never rises along a session, and equal pairs stand by position: a prefix takes a prefix of every session.
    """

    values: NDArray[np.float64]
    caps: NDArray[np.int64]
    owners: NDArray[np.int64]
    shares: NDArray[np.float64]


def choose(candidates: Sequence[Candidate], times_ms: CycleTimes) -> Choice:
    """The lookaheads with the highest rate of expected tokens."""
    return better(*choose_both(candidates, times_ms))


def better(bare: Choice, drafted: Choice | None) -> Choice:
    """The one with the higher rate."""
    return drafted if drafted is not None and drafted.rate > bare.rate else bare


def choose_both(
    candidates: Sequence[Candidate], times_ms: CycleTimes, given_up: float = 1.0
) -> tuple[Choice, Choice | None]:
    """The best lookaheads that wait for nobody's draft, and the best that do: None where nothing is worth drafting.

    Of those that wait, the ones with the lowest cap whose rate, times `given_up`, is not below the best.
    """
    max_cap, max_tokens = times_ms.shape[0] - 1, times_ms.shape[1] - 1
    pairs = _pairs(candidates, max_cap)
    base = sum(candidate.weight for candidate in candidates)
    longest = int(pairs.caps.max(initial=0)) if max_tokens else 0
    # By cap and by pairs looked at, those beyond the cap among them: what they are worth, and how many count.
    counts_if = pairs.caps <= np.arange(longest + 1)[:, None]
    gains = np.cumsum(np.where(counts_if, pairs.values, 0.0), axis=1) + base
    counts = np.rint(np.cumsum(np.where(counts_if, pairs.shares, 0.0), axis=1)).astype(np.int64)
    rates = gains / times_ms[np.arange(longest + 1)[:, None], np.minimum(counts, max_tokens)]
    rates[counts > max_tokens] = 0.0
    none_rates = base / times_ms[: longest + 1, 0]

    def choice(cap: int) -> Choice:
        """The best prefix of the pairs up to this cap."""
        row = rates[cap]
        top = int(row.argmax()) if len(row) else 0
        if not len(row) or row[top] <= none_rates[cap]:
            no_lookaheads = (0,) * len(candidates)
            return Choice(no_lookaheads, cap, float("inf"), float(none_rates[cap]), float(times_ms[cap, 0]))
        taken = np.flatnonzero(counts_if[cap, : top + 1])
        lookaheads = np.bincount(pairs.owners[taken], minlength=len(candidates))
        threshold, num_tokens = float(pairs.values[taken[-1]]), int(counts[cap, top])
        time_ms = float(times_ms[cap, num_tokens])
        return Choice(tuple(lookaheads.tolist()), cap, threshold, float(row[top]), time_ms, num_tokens)

    bare = choice(0)
    if not longest:
        return bare, None
    tops = np.maximum(rates[1:].max(axis=1), none_rates[1:])
    drafted = choice(1 + int((given_up * tops >= tops.max()).argmax()))
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
    num_tokens = round(sum(candidate.drafted[:best])) if candidate.drafted else best
    least = candidate.weight * candidate.survival[best - 1]
    return bare, Choice((best,), best, least, best_rate, times_ms[best], num_tokens)


def score(lookaheads: Sequence[int], candidates: Sequence[Candidate], times_ms: CycleTimes) -> Choice:
    """Given lookaheads by the same account; as they were not chosen, their threshold is infinite."""
    gain, cap, total = 0.0, 0, 0.0
    for lookahead, candidate in zip(lookaheads, candidates, strict=True):
        gain += candidate.weight * (1.0 + sum(candidate.survival[:lookahead]))
        total += sum(candidate.drafted[:lookahead]) if candidate.drafted else lookahead
        if not candidate.is_free:
            cap = max(cap, lookahead)
    num_tokens = round(total)
    time_ms = float(times_ms[cap, num_tokens])
    return Choice(tuple(lookaheads), cap, float("inf"), gain / time_ms, time_ms, num_tokens)


class Search(NamedTuple):
    """The question of one plan; `given_up` as of `choose_both`, for sessions that share rounds."""

    candidates: Sequence[Candidate]
    cycle: Cycle
    given_up: float = 1.0

    @property
    def max_tokens(self) -> int:
        """How many may be drafted in all."""
        return len(self.cycle.whole_ms) - 1

    def best(self) -> tuple[Choice, Choice | None]:
        """The best that waits for nobody's draft, and the best that does."""
        if len(self.candidates) == 1 and not self.candidates[0].is_free:
            return choose_alone(self.candidates[0], self.cycle.alone_ms(self.candidates[0].drafted))
        return choose_both(self.candidates, self.cycle.times_ms, self.given_up)

    def score(self, lookaheads: Sequence[int]) -> Choice:
        """Given lookaheads."""
        return score(lookaheads, self.candidates, self.cycle.times_ms)


def _pairs(candidates: Sequence[Candidate], max_cap: int) -> _Pairs:
    lengths = np.array([len(one.survival) for one in candidates])
    owners = np.repeat(np.arange(len(candidates)), lengths)
    survival = np.fromiter(chain.from_iterable(one.survival for one in candidates), float, len(owners))
    positions = np.arange(1, len(owners) + 1) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    caps = np.where(np.repeat([one.is_free for one in candidates], lengths), 0, positions)
    values = survival * np.repeat([one.weight for one in candidates], lengths)
    worth = np.flatnonzero((survival >= WORTH_ASKING) & (caps <= max_cap))
    order = worth[np.lexsort((owners[worth], caps[worth], -values[worth]))]
    shares = np.ones(len(owners))
    if any(one.drafted for one in candidates):
        every = ([*one.drafted] or [1.0] * len(one.survival) for one in candidates)
        shares = np.fromiter(chain.from_iterable(every), float, len(owners))
    return _Pairs(values[order], caps[order], owners[order], shares[order])


def unless_as_good(chosen: Choice, before: Choice) -> Choice:
    """What there was before, if it is of the same kind and next to as good."""
    is_same_kind = (before.cap > 0) == (chosen.cap > 0)
    if is_same_kind and chosen.rate < _HYSTERESIS * before.rate:
        return before._replace(threshold=chosen.threshold)
    return chosen
