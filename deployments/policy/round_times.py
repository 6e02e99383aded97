"""How long rounds really take, from verdict to verdict: evidence that wins over the cost model.

The model adds up a step, drafts and hops. What it does not know (roles that compete for a machine, messages
that others' messages hold up, waits of the verifier) shows in the time from one verdict to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_MEMORY = 24.0
"""Cycles of all sessions that are remembered."""
_DOUBT = 0.5
"""Cycles' worth of doubt about what is remembered: with one cycle seen two thirds of it are believed."""
_STALE = 8.0
"""Cycles without a round of a kind that take half of the weight from what was known of it."""
_FEW_CYCLES = 4.0
_FIRST_JUMP, _JUMP, _RARE_JUMP, _DROP = 3.0, 1.5, 1.25, 4.0
"""A round that takes this many times longer or shorter than was to be expected counts as one that does just that: the
very first, those of a kind that runs, those that are rare. Longer is often a hiccup of the machine, shorter never is.
"""
_EXACT_SESSIONS = 16
"""Up to so many sessions each number has a bare time of its own, beyond that each quarter of an octave."""

BareModel = Callable[[float, float], float]
"""(sessions, context of each) -> what the cost model says of a cycle without drafts, ms."""


@dataclass(slots=True)
class _Known:
    """A value in cycles that were seen; `num_sessions` and `context` are those of its cycles."""

    value: float
    seen_at: float
    cycles: float = 0.0
    total: float = 0.0
    num_sessions: float = 1.0
    context: float = 0.0

    def observe(self, now: float, weight: float, found: float) -> float:
        """Take a round that is `weight` of a cycle; returns the share of the new value in the known one."""
        missed = max(0.0, now - self.seen_at - 1.0)
        cycles = self.cycles * _STALE / (_STALE + missed)
        jump = _FIRST_JUMP if not self.total else _RARE_JUMP if cycles < _FEW_CYCLES else _JUMP
        found = min(jump * self.value, max(self.value / _DROP, found))
        cycles = min(cycles + weight, _MEMORY)
        share = weight / (cycles + _DOUBT)
        self.value += (found - self.value) * share
        self.cycles, self.seen_at, self.total = cycles, now, self.total + weight
        return share


class RoundTimes:
    """Times of the two kinds of rounds: those that wait for drafts, and bare ones.

    A drafted cycle is as long as its lookaheads make it, so what is learnt is the measured time over the modelled one,
    by company: the number of sessions on the verifier, in powers of two. A bare cycle of so many sessions is always
    the same, so its time itself is learnt: as good as it is measured, whatever the model says of its parts. The model
    only tells how it changes with sessions and contexts that were not seen.

    Both kinds are seen at different times, one of them by probes alone, and a machine changes: what was not seen for
    a while gives way soon to what is seen now.
    """

    def __init__(self) -> None:
        self._drafted: dict[int, _Known] = {}
        self._bare: dict[int, _Known] = {}
        self._bare_cycles: dict[int, float] = {}
        self._now = 0.0

    def observe_drafted(self, num_sessions: int, modelled_ms: float, measured_ms: float) -> None:
        """Take one session's round in a cycle that waited for drafts."""
        weight = self._passed(num_sessions)
        known = self._drafted.get(company(num_sessions))
        if known is None:
            known = self._drafted[company(num_sessions)] = _Known(self.drafted_factor(num_sessions), self._now)
        known.observe(self._now, weight, measured_ms / modelled_ms)

    def observe_bare(self, num_sessions: int, context: float, model: BareModel, measured_ms: float) -> None:
        """Take one session's round in a cycle in which nothing was drafted."""
        weight, key = self._passed(num_sessions), _bare_key(num_sessions)
        known = self._bare.get(key)
        if known is None:
            expected_ms = self.bare_factor(num_sessions, model) * model(num_sessions, context)
            known = self._bare[key] = _Known(expected_ms, self._now, num_sessions=num_sessions, context=context)
        share = known.observe(self._now, weight, measured_ms)
        known.context += share * (context - known.context)
        known.num_sessions += share * (num_sessions - known.num_sessions)
        self._bare_cycles[company(num_sessions)] = self._bare_cycles.get(company(num_sessions), 0.0) + weight

    def _passed(self, num_sessions: int) -> float:
        weight = 1.0 / num_sessions
        self._now += weight
        return weight

    def drafted_factor(self, num_sessions: int) -> float:
        """How many times longer than modelled drafted rounds take in this company, or in the nearest that is known."""
        known = _nearest(self._drafted, company(num_sessions))
        return known.value if known is not None else 1.0

    def bare_factor(self, num_sessions: int, model: BareModel) -> float:
        """How many times longer than modelled a cycle without drafts takes, of this many sessions or about so many."""
        known = _nearest(self._bare, _bare_key(num_sessions))
        return known.value / model(known.num_sessions, known.context) if known is not None else 1.0

    def num_cycles(self, num_sessions: int, is_drafted: bool) -> float:
        """How many cycles of all sessions have shown rounds of this kind in this company."""
        if not is_drafted:
            return self._bare_cycles.get(company(num_sessions), 0.0)
        known = self._drafted.get(company(num_sessions))
        return 0.0 if known is None else known.total


def company(num_sessions: int) -> int:
    """0 for a session alone, 1 for two, 2 for up to four, 3 for up to eight ..."""
    return max(0, num_sessions - 1).bit_length()


def _bare_key(num_sessions: int) -> int:
    if num_sessions <= _EXACT_SESSIONS:
        return num_sessions
    octave = company(num_sessions)
    return 4 * octave - 7 + (num_sessions - 1 >> octave - 3)


def _nearest(known: dict[int, _Known], key: int) -> _Known | None:
    if key in known:
        return known[key]
    return known[min(known, key=lambda one: abs(one - key))] if known else None
