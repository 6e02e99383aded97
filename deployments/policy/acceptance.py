"""How likely drafted tokens hold: by session, backed by its request class, backed by its drafter.

A rate is conditional: the chance that position j holds, given that all before it did. A proposal that
was accepted whole says nothing of the positions after it (it is censored there), so they keep what
they had. Classes are hypotheses: a session starts with the one that it was told or that was read from
its request, and a few rounds of evidence move it to another.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from deployments.messages import RequestClass
from deployments.policy.classes import REQUEST_CLASSES

MAX_POSITIONS = 64
_SWITCH = 0.08
"""Chance that a session's text changes its class between two rounds, to any of them."""
_OUTLOOK = 4
_MOVED = 0.04
"""When the classes' survival at position `_OUTLOOK` moves by more than this in a round, the session's own counts
fade: they were of another kind of text."""
_FIRST_BELIEF = 0.7
"""Belief in the class that a request was given, while nothing is known of such; the others share the rest."""
_TOLD_DOUBT = 12.0
"""Sessions' worth of doubt about what those of a class turned out to be."""
_TOLD_MEMORY = 32
"""Sessions of a class, the latest, that are remembered with what they turned out to be."""
_SESSION_FADING = 0.95
_SESSION_DOUBT = 10.0
_CLASS_FADING = 0.998
_CLASS_DOUBT = 12.0
_SKILL_FADING = 0.99
_SKILL_DOUBT = 4.0
_LOWEST, _HIGHEST = 0.005, 0.995
_CONFIDENCE_EDGES = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99)
_BUCKET_DOUBT = 2.0
_TABLES_EVERY = 16
"""Rounds between two looks at all counts of a drafter, once there are some."""

_TYPICAL: dict[RequestClass, tuple[float, ...]] = {
    # Measured on the pocket pair, smoothed; the last rate goes on for ever.
    "structured": (0.98, 0.97, 0.96, 0.93, 0.90, 0.80, 0.70, 0.65),
    "code": (0.81, 0.82, 0.78, 0.79, 0.80, 0.75),
    "prose": (0.78, 0.70, 0.74, 0.76, 0.70, 0.70),
    "creative": (0.65, 0.62, 0.62),
    "reasoning": (0.76, 0.75, 0.75),
}


class _Rates:
    """Fading counts of what held and what did not, by position."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = [0.0] * MAX_POSITIONS
        self.misses = [0.0] * MAX_POSITIONS

    def add(self, num_held: int, was_rejected: bool, fading: float, weight: float = 1.0) -> None:
        """Count `num_held` positions that held and, if `was_rejected`, the one after them that did not."""
        fading = 1.0 - (1.0 - fading) * weight
        hits, misses = self.hits, self.misses
        for j in range(num_held):
            hits[j] = fading * hits[j] + weight
            misses[j] *= fading
        if was_rejected:
            hits[num_held] *= fading
            misses[num_held] = fading * misses[num_held] + weight

    def fade(self, factor: float) -> None:
        """Forget a part of everything."""
        self.hits = [factor * one for one in self.hits]
        self.misses = [factor * one for one in self.misses]


class DrafterAcceptance:
    """What is known of one kind of drafter: its skill, the rates by request class, and what its confidence is worth."""

    def __init__(self) -> None:
        self._classes = tuple(_Rates() for _ in REQUEST_CLASSES)
        self._missed = 0.0
        self._expected_missed = 0.0
        self._buckets = [[0.0] * 4 for _ in range(len(_CONFIDENCE_EDGES) + 1)]
        self._turned_out: dict[RequestClass | None, deque[list[float]]] = {}
        self.num_rounds = 0
        self._depth = 1
        self._tables: list[list[float]] | None = None

    def reach(self, num_positions: int) -> None:
        """Keep rates for so many positions, at least."""
        if num_positions > self._depth:
            self._depth, self._tables = num_positions, None

    def remember(self, told: RequestClass | None, beliefs: list[float]) -> None:
        """Keep what a session that was told this class is, the mean of its rounds; the caller keeps that current."""
        self._turned_out.setdefault(told, deque(maxlen=_TOLD_MEMORY)).append(beliefs)

    def first_beliefs(self, told: RequestClass | None) -> list[float]:
        """What a session that is told this class will turn out to be."""
        rest = (1.0 - _FIRST_BELIEF) / (len(REQUEST_CLASSES) - 1)
        prior = [
            1.0 / len(REQUEST_CLASSES) if told is None else _FIRST_BELIEF if name == told else rest
            for name in REQUEST_CLASSES
        ]
        known = self._turned_out.get(told, ())
        scale = 1.0 / (_TOLD_DOUBT + len(known))
        return [scale * (_TOLD_DOUBT * first + sum(seen)) for first, *seen in zip(prior, *known, strict=True)]

    def tables(self) -> list[list[float]]:
        """Conditional rates by class and position."""
        if self._tables is None:
            skill = (self._missed + _SKILL_DOUBT) / (self._expected_missed + _SKILL_DOUBT)
            depth, floor = self._depth, _CLASS_DOUBT
            self._tables = [
                [
                    min(_HIGHEST, max(_LOWEST, (hits + floor * max(0.0, 1.0 - skill * miss)) / (hits + misses + floor)))
                    for hits, misses, miss in zip(rates.hits[:depth], rates.misses[:depth], typical, strict=False)
                ]
                for rates, typical in zip(self._classes, _TYPICAL_MISSES, strict=True)
            ]
        return self._tables

    def observe(self, beliefs: Sequence[float], num_held: int, was_rejected: bool) -> None:
        """Count a round of a session that belongs to the classes by these beliefs."""
        self.num_rounds += 1
        last = num_held + (1 if was_rejected else 0)
        for belief, rates, typical in zip(beliefs, self._classes, _TYPICAL_MISSES, strict=True):
            if belief > 0.02:
                rates.add(num_held, was_rejected, _CLASS_FADING, belief)
            self._expected_missed += belief * sum(typical[:last])
        self._missed = _SKILL_FADING * self._missed + was_rejected
        self._expected_missed *= _SKILL_FADING
        if self.num_rounds % _TABLES_EVERY == 0 or self.num_rounds < _TABLES_EVERY:
            self._tables = None

    # -- confidence ---------------------------------------------------------------------------

    def calibrate(self, rates: Sequence[float], confidences: Sequence[float], num_held: int, rejected: bool) -> None:
        """Compare what held with what the rates alone said, by the drafter's confidence in it."""
        for j in range(min(num_held + (1 if rejected else 0), len(confidences))):
            bucket = self._buckets[bisect_right(_CONFIDENCE_EDGES, confidences[j])]
            bucket[:] = [_CLASS_FADING * count for count in bucket]
            bucket[0 if j < num_held else 1] += 1.0
            bucket[2] += rates[j]
            bucket[3] += 1.0 - rates[j]

    def sharpen(self, rate: float, confidence: float) -> float:
        """The rate, given the drafter's confidence in the token that it drew."""
        hits, misses, expected_hits, expected_misses = self._buckets[bisect_right(_CONFIDENCE_EDGES, confidence)]
        gain = (hits + _BUCKET_DOUBT) * (expected_misses + _BUCKET_DOUBT)
        loss = (misses + _BUCKET_DOUBT) * (expected_hits + _BUCKET_DOUBT)
        odds = rate / (1.0 - rate) * gain / loss
        return odds / (1.0 + odds)


class SessionAcceptance:
    """What is known of one session with one kind of drafter."""

    __slots__ = (
        "_drafter",
        "_num_believed",
        "_outlook",
        "_rates",
        "_told",
        "_turned_out",
        "beliefs",
        "num_positions",
        "rates",
        "survival",
    )

    def __init__(self, drafter: DrafterAcceptance, request_class: RequestClass | None, num_positions: int) -> None:
        self.beliefs = drafter.first_beliefs(request_class)
        self._told = request_class
        self._turned_out = [0.0] * len(REQUEST_CLASSES)
        self._num_believed = 0
        self._drafter = drafter
        drafter.reach(min(num_positions, MAX_POSITIONS - 1) + 1)
        self._rates = _Rates()
        self._outlook = 0.0
        self.num_positions = min(num_positions, MAX_POSITIONS - 1)
        self.rates: list[float] = []
        self.survival: list[float] = []
        self._refresh()

    @property
    def request_class(self) -> RequestClass:
        """The likeliest class by now."""
        return REQUEST_CLASSES[max(range(len(self.beliefs)), key=self.beliefs.__getitem__)]

    def observe(
        self, num_held: int, num_looked_at: int, *, is_next_held: bool = False, confidences: Sequence[float] = ()
    ) -> None:
        """Take a round in which `num_looked_at` drafted tokens were verified and the first `num_held` held.

        `is_next_held` says that the first token which was drafted but not verified was the target's own all the same.
        """
        if num_looked_at == 0:
            return
        was_rejected = num_held < num_looked_at
        num_held = min(num_held + (1 if is_next_held and not was_rejected else 0), MAX_POSITIONS - 1)
        if confidences:
            self._drafter.calibrate(self.rates, confidences, min(num_held, len(self.rates) - 1), was_rejected)
        self._believe(num_held, was_rejected)
        self._rates.add(num_held, was_rejected, _SESSION_FADING)
        self._drafter.observe(self.beliefs, num_held, was_rejected)
        self._refresh()

    def sharpened(self, confidences: Sequence[float]) -> list[float]:
        """The survival of a proposal's positions, given the drafter's confidence in each of its tokens."""
        survival, product = [], 1.0
        for rate, confidence in zip(self.rates, confidences, strict=False):
            product *= self._drafter.sharpen(rate, confidence)
            survival.append(product)
        return survival

    def _believe(self, num_held: int, was_rejected: bool) -> None:
        posterior = []
        for belief, table in zip(self.beliefs, self._drafter.tables(), strict=True):
            for j in range(num_held):
                belief *= table[j]
            if was_rejected:
                belief *= 1.0 - table[num_held]
            posterior.append(belief)
        scale = (1.0 - _SWITCH) / sum(posterior)
        floor = _SWITCH / len(posterior)
        self.beliefs = [one * scale + floor for one in posterior]
        self._num_believed += 1
        if self._num_believed == 1:
            self._drafter.remember(self._told, self._turned_out)
        for index, (mean, belief) in enumerate(zip(self._turned_out, self.beliefs, strict=True)):
            self._turned_out[index] = mean + (belief - mean) / self._num_believed

    def _refresh(self) -> None:
        tables = self._drafter.tables()
        first, second, third, fourth, fifth = self.beliefs
        priors = [
            first * a + second * b + third * c + fourth * d + fifth * e
            for a, b, c, d, e in zip(*(table[: self.num_positions] for table in tables), strict=True)
        ]
        outlook = math.prod(priors[:_OUTLOOK])
        if (moved := abs(outlook - self._outlook)) > _MOVED:
            self._rates.fade(max(0.0, 1.0 - 3.0 * moved))
        self._outlook = outlook
        rates, survival, product = [], [], 1.0
        for prior, hits, misses in zip(priors, self._rates.hits, self._rates.misses, strict=False):
            rate = (hits + _SESSION_DOUBT * prior) / (hits + misses + _SESSION_DOUBT)
            product *= rate
            rates.append(rate)
            survival.append(product)
        self.rates, self.survival = rates, survival


def _misses(request_class: RequestClass) -> tuple[float, ...]:
    rates = _TYPICAL[request_class]
    return tuple(1.0 - rates[min(j, len(rates) - 1)] for j in range(MAX_POSITIONS))


_TYPICAL_MISSES = tuple(_misses(request_class) for request_class in REQUEST_CLASSES)
