"""How long rounds really take, from verdict to verdict: evidence that wins over the cost model.

The model adds up a step, drafts and hops. What it does not know (roles that compete for a machine, messages
that others' messages hold up, waits of the verifier) shows in the time from one verdict to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

_MEMORY = 24.0
"""Cycles of all sessions that are remembered."""
_DOUBT = 0.5
"""Cycles' worth of doubt about what is remembered: with one cycle seen two thirds of it are believed."""
_STALE = 8.0
"""Cycles without a round of a kind that take half of the weight from what was known of it."""
_KEPT = 3.0
"""Cycles' worth of what was seen of drafted rounds that outlasts any number of others: rounds are not alike, and bursts
of drafts begin with few of them.
"""
_KEPT_BARE = 12.0
"""The same of bare rounds that sessions share. Where drafts run they are seen in probes alone, before groups that take
turns have come together again: a few rounds that look slow shall not outweigh thousands that were not.
"""
_FEW_CYCLES = 4.0
_FIRST_JUMP, _JUMP, _RARE_JUMP, _DROP = 3.0, 1.5, 1.25, 4.0
"""A round that takes this many times longer or shorter than was to be expected counts as one that does just that: the
very first, those of a kind that runs, those that are rare. Longer is often a hiccup of the machine, shorter never is.
"""
_ROUND_NOISE, _SLOPE_SPREAD = 0.15, 0.25
"""How far a drafted cycle's time is off, as a share of it, and how far drafts may be from as dear as modelled."""
_SLOPE_MEMORY = 96.0
"""Cycles of a company that tell how dear drafts are."""
_EXACT_SESSIONS = 16
"""Up to so many sessions each number has a bare time of its own, beyond that each quarter of an octave."""

_Known = TypeVar("_Known")
BareModel = Callable[[float, float], float]
"""(sessions, context of each) -> what the cost model says of a cycle without drafts, ms."""


@dataclass(slots=True)
class _Seen:
    """How many cycles of a kind of rounds were seen: `total` ever, `cycles` of them still count."""

    seen_at: float
    cycles: float = 0.0
    total: float = 0.0

    def fade(self, now: float, kept: float = 0.0) -> None:
        """Some cycles have gone by without such a round: what is known of it counts less."""
        missed = max(0.0, now - self.seen_at - 1.0)
        left = _STALE / (_STALE + missed)
        self.cycles = max(left * self.cycles, min(self.cycles, kept))

    def add(self, now: float, weight: float) -> None:
        """Such a round has been seen, which is `weight` of a cycle."""
        self.cycles = min(self.cycles + weight, _MEMORY)
        self.seen_at, self.total = now, self.total + weight

    def plausible(self, expected_ms: float, found_ms: float) -> float:
        """A time that was found, as far as one round may move what is believed."""
        jump = _FIRST_JUMP if not self.total else _RARE_JUMP if self.cycles < _FEW_CYCLES else _JUMP
        return min(jump * expected_ms, max(expected_ms / _DROP, found_ms))


@dataclass(slots=True)
class _BareTime:
    """The time of a bare cycle; `num_sessions` and `context` are those of the cycles that were seen."""

    seen: _Seen
    time_ms: float
    num_sessions: float
    context: float

    def observe(self, now: float, num_sessions: int, context: float, measured_ms: float) -> None:
        weight = 1.0 / num_sessions
        self.seen.fade(now, _KEPT_BARE if num_sessions > 1 else 0.0)
        found_ms = self.seen.plausible(self.time_ms, measured_ms)
        self.seen.add(now, weight)
        share = weight / (self.seen.cycles + _DOUBT)
        self.time_ms += share * (found_ms - self.time_ms)
        self.context += share * (context - self.context)
        self.num_sessions += share * (num_sessions - self.num_sessions)


class Lateness(NamedTuple):
    """What cycles of a kind take: `late_ms + factor * modelled`."""

    late_ms: float = 0.0
    factor: float = 1.0

    def after(self, modelled_ms: float) -> float:
        """The time of a cycle for which the model says this one."""
        return self.late_ms + self.factor * modelled_ms


AS_MODELLED = Lateness()


@dataclass(slots=True)
class _DraftedTime:
    """A line through drafted cycles' times over what the model says of them, by its middle and its slope.

    What the model does not know is mostly the same however many tokens are drafted (hops that wait, others' steps), so
    the middle follows what is seen at once, and the slope stays near `before` until several lookaheads were seen.
    """

    seen: _Seen
    modelled_ms: float
    time_ms: float
    before: float
    spread: float = 0.0
    shared_spread: float = 0.0

    @property
    def line(self) -> Lateness:
        """As it is known now."""
        doubt = (_ROUND_NOISE / _SLOPE_SPREAD * self.time_ms) ** 2
        slope = (doubt * self.before + self.shared_spread) / (doubt + self.spread)
        # A draft costs what is modelled at least (what a model says that errs makes slopes look flat), and the shortest
        # is not free.
        slope = min(max(slope, 1.0), self.time_ms / self.modelled_ms)
        return Lateness(self.time_ms - slope * self.modelled_ms, slope)

    def observe(self, now: float, weight: float, modelled_ms: float, measured_ms: float) -> None:
        """Take a round that is `weight` of a cycle."""
        self.seen.fade(now, _KEPT)
        found_ms = self.seen.plausible(self.line.after(modelled_ms), measured_ms)
        self.seen.add(now, weight)
        share = weight / (self.seen.cycles + _DOUBT)
        off_ms, late_ms = modelled_ms - self.modelled_ms, found_ms - self.time_ms
        self.modelled_ms += share * off_ms
        self.time_ms += share * late_ms
        kept, news = 1.0 - weight / _SLOPE_MEMORY, weight * (1.0 - share)
        self.spread = kept * self.spread + news * off_ms * off_ms
        self.shared_spread = kept * self.shared_spread + news * off_ms * late_ms


class RoundTimes:
    """Times of the two kinds of rounds: those that wait for drafts, and bare ones.

    A drafted cycle is as long as its lookaheads make it, so what is learnt is how much longer than modelled they take,
    by company: the number of sessions on the verifier, in powers of two. A bare cycle of so many sessions is always
    the same, so its time itself is learnt: as good as it is measured, whatever the model says of its parts. The model
    only tells how it changes with sessions and contexts that were not seen.

    Both kinds are seen at different times, one of them by probes alone, and a machine changes: what was not seen for
    a while gives way soon to what is seen now.
    """

    def __init__(self) -> None:
        self._drafted: dict[int, _DraftedTime] = {}
        self._bare: dict[int, _BareTime] = {}
        self._bare_cycles: dict[int, float] = {}
        self._now = 0.0

    def observe_drafted(self, num_sessions: int, modelled_ms: float, measured_ms: float) -> None:
        """Take one session's round in a cycle that waited for drafts."""
        weight, key = self._passed(num_sessions), company(num_sessions)
        known = self._drafted.get(key)
        if known is None:
            before = self.drafted_lateness(num_sessions)
            expected_ms = before.after(modelled_ms)
            known = self._drafted[key] = _DraftedTime(_Seen(self._now), modelled_ms, expected_ms, before.factor)
        known.observe(self._now, weight, modelled_ms, measured_ms)

    def observe_bare(self, num_sessions: int, context: float, model: BareModel, measured_ms: float) -> None:
        """Take one session's round in a cycle in which nothing was drafted."""
        weight, key = self._passed(num_sessions), _bare_key(num_sessions)
        known = self._bare.get(key)
        if known is None:
            expected_ms = self.bare_factor(num_sessions, model) * model(num_sessions, context)
            known = self._bare[key] = _BareTime(_Seen(self._now), expected_ms, num_sessions, context)
        known.observe(self._now, num_sessions, context, measured_ms)
        self._bare_cycles[company(num_sessions)] = self._bare_cycles.get(company(num_sessions), 0.0) + weight

    def _passed(self, num_sessions: int) -> float:
        weight = 1.0 / num_sessions
        self._now += weight
        return weight

    def drafted_lateness(self, num_sessions: int) -> Lateness:
        """How much longer than modelled drafted rounds take in this company, or in the nearest that is known."""
        known = _nearest(self._drafted, company(num_sessions))
        return known.line if known is not None else AS_MODELLED

    def bare_factor(self, num_sessions: int, model: BareModel) -> float:
        """How many times longer than modelled a cycle without drafts takes, of this many sessions or about so many."""
        known = _nearest(self._bare, _bare_key(num_sessions))
        return known.time_ms / model(known.num_sessions, known.context) if known is not None else 1.0

    def num_cycles(self, num_sessions: int, is_drafted: bool) -> float:
        """How many cycles of all sessions have shown rounds of this kind in this company."""
        if not is_drafted:
            return self._bare_cycles.get(company(num_sessions), 0.0)
        known = self._drafted.get(company(num_sessions))
        return 0.0 if known is None else known.seen.total


def company(num_sessions: int) -> int:
    """0 for a session alone, 1 for two, 2 for up to four, 3 for up to eight ..."""
    return max(0, num_sessions - 1).bit_length()


def _bare_key(num_sessions: int) -> int:
    if num_sessions <= _EXACT_SESSIONS:
        return num_sessions
    octave = company(num_sessions)
    return 4 * octave - 7 + (num_sessions - 1 >> octave - 3)


def _nearest(known: Mapping[int, _Known], key: int) -> _Known | None:
    if key in known:
        return known[key]
    return known[min(known, key=lambda one: abs(one - key))] if known else None
