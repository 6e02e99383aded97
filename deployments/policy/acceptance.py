"""How likely drafted tokens hold: by session, backed by its request class, backed by its drafter.

A rate is conditional: the chance that position j holds, given that all before it did. A proposal that
was accepted whole says nothing of the positions after it (it is censored there), so they keep what
they had. The further an answer has come the better it is foreseen: by its stage, how often its length has doubled, the
odds of all positions rise. Classes are hypotheses: a session starts with the one that it was told or that was
read from its request, and a few rounds of evidence move it to another.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from operator import mul, sub

from deployments.messages import RequestClass
from deployments.policy.classes import REQUEST_CLASSES
from deployments.policy.confidence import Calibration, Reach
from deployments.policy.evidence import Evidence, adjusted

MAX_POSITIONS = 64
_SWITCH = 0.1
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
_NEGLIGIBLE = 0.02
"""A belief that is not worth counting for."""
_GROWTH = (0.45, 0.6, 0.75, 1.0, 1.2, 1.35, 1.35)
"""What a stage makes of the odds that a token holds in free text (a record is as easy to foresee at its beginning):
measured on the pocket pair, smoothed. The first lasts for `_FIRST_STAGE` tokens.
"""
_FIRST_STAGE = 8
_GROWTH_DOUBT, _USUAL = 24.0, 0.7
"""Tokens' worth of belief in that, and the rate at which they are supposed to hold."""
_RUNS_FADING, _RUNS_DOUBT = 0.998, 8.0
"""How fast it is forgotten in what state rounds began, and how many rounds of each state are believed to be alike."""
_TABLES_EVERY = 16
"""Rounds between two looks at all counts of a drafter, once there are some."""

_TYPICAL: dict[RequestClass, tuple[float, ...]] = {
    # Measured on the pocket pair, smoothed; the last rate goes on for ever. Rates rise with the position: where much
    # has held the text is of a kind that is foreseen well. Creative texts and reasoning are assumed.
    "structured": (0.95, 0.95, 0.96),
    "code": (0.77, 0.80, 0.83, 0.85, 0.86),
    "prose": (0.68, 0.73, 0.74, 0.75, 0.78, 0.80),
    "creative": (0.65, 0.62, 0.62),
    "reasoning": (0.76, 0.75, 0.75),
}


_NO_OFFSETS = (0.0,) * MAX_POSITIONS


class _Rates:
    """Fading counts of what held and what did not, by position."""

    __slots__ = ("hits", "misses")

    def __init__(self) -> None:
        self.hits = [0.0] * MAX_POSITIONS
        self.misses = [0.0] * MAX_POSITIONS

    def add(
        self,
        num_held: int,
        was_rejected: bool,
        fading: float,
        weight: float = 1.0,
        offsets: Sequence[float] = _NO_OFFSETS,
    ) -> None:
        """Count `num_held` positions that held and, if `was_rejected`, the one after them that did not.

        `offsets` say how much more often each would have held as usual than it was to be expected to now.
        """
        fading = 1.0 - (1.0 - fading) * weight
        hits, misses = self.hits, self.misses
        for j in range(num_held):
            hits[j] = fading * hits[j] + weight * (1.0 + offsets[j])
            misses[j] = fading * misses[j] - weight * offsets[j]
        if was_rejected:
            hits[num_held] = fading * hits[num_held] + weight * offsets[num_held]
            misses[num_held] = fading * misses[num_held] + weight * (1.0 - offsets[num_held])

    def fade(self, factor: float) -> None:
        """Forget a part of everything."""
        self.hits = [factor * one for one in self.hits]
        self.misses = [factor * one for one in self.misses]


class _Runs:
    """First tokens of rounds, by whether the proposal before held whole: (held, missed) each.

    Where much more holds after a whole proposal, what holds comes in runs.
    """

    __slots__ = ("after_miss", "after_whole")

    def __init__(self) -> None:
        self.after_whole = [0.0, 0.0]
        self.after_miss = [0.0, 0.0]

    def add(self, is_after_whole: bool, is_held: bool) -> None:
        """Count a round."""
        self.after_whole = [_RUNS_FADING * one for one in self.after_whole]
        self.after_miss = [_RUNS_FADING * one for one in self.after_miss]
        (self.after_whole if is_after_whole else self.after_miss)[0 if is_held else 1] += 1.0

    def log_odds(self) -> tuple[float, float]:
        """How much the odds of a first token rise by a whole proposal before it, and how many rounds tell it."""
        held, missed = map(sum, zip(self.after_whole, self.after_miss, strict=True))
        num_known = min(sum(self.after_whole), sum(self.after_miss))
        if not num_known:
            return 0.0, 0.0
        usual = _RUNS_DOUBT / (held + missed)
        odds = [
            (one_held + usual * held + 0.5) / (one_missed + usual * missed + 0.5)
            for one_held, one_missed in (self.after_whole, self.after_miss)
        ]
        return math.log(odds[0] / odds[1]), num_known


class DrafterAcceptance:
    """What is known of one kind of drafter: its skill, the rates by request class, and what its confidence is worth."""

    def __init__(self) -> None:
        self._classes = tuple(_Rates() for _ in REQUEST_CLASSES)
        self._growth = [
            [Evidence(odds, _GROWTH_DOUBT, _USUAL) for odds in _typical_growth(name)] for name in REQUEST_CLASSES
        ]
        self._usual: list[list[float]] | None = None
        self._missed = 0.0
        self._expected_missed = 0.0
        self.calibration = Calibration()
        self.reach_of_drafts = Reach()
        self._turned_out: dict[RequestClass | None, deque[list[float]]] = {}
        self._runs: dict[RequestClass | None, _Runs] = {}
        self.num_rounds = 0
        self._depth = 1
        self._tables: dict[int, list[list[float]]] = {}

    def reach(self, num_positions: int) -> None:
        """Keep rates for so many positions, at least."""
        if num_positions > self._depth:
            self._depth, self._tables, self._usual = num_positions, {}, None

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

    def tables(self, stage: int) -> list[list[float]]:
        """Conditional rates by class and position, of answers that are in this stage."""
        tables = self._tables.get(stage)
        if tables is None:
            growth = (stages[stage].odds for stages in self._growth)
            tables = self._tables[stage] = [
                [adjusted(rate, odds) for rate in rates] for rates, odds in zip(self.usual_rates(), growth, strict=True)
            ]
        return tables

    def usual_rates(self) -> list[list[float]]:
        """Conditional rates by class and position, whatever the stage."""
        if self._usual is None:
            skill = (self._missed + _SKILL_DOUBT) / (self._expected_missed + _SKILL_DOUBT)
            depth, floor = self._depth, _CLASS_DOUBT
            self._usual = [
                [
                    min(_HIGHEST, max(_LOWEST, (hits + floor * max(0.0, 1.0 - skill * miss)) / (hits + misses + floor)))
                    for hits, misses, miss in zip(rates.hits[:depth], rates.misses[:depth], typical, strict=False)
                ]
                for rates, typical in zip(self._classes, _TYPICAL_MISSES, strict=True)
            ]
        return self._usual

    def observe(self, beliefs: Sequence[float], stage: int, num_held: int, was_rejected: bool) -> None:
        """Count a round of a session that belongs to the classes by these beliefs."""
        self.num_rounds += 1
        last = num_held + (1 if was_rejected else 0)
        usual, tables = self.usual_rates(), self.tables(stage)
        for index, belief in enumerate(beliefs):
            if belief <= _NEGLIGIBLE:
                continue
            expected, now = usual[index][:last], tables[index][:last]
            # What would have come of it in the usual stage: as much more or less as was to be expected.
            offsets = list(map(sub, expected, now))
            self._classes[index].add(num_held, was_rejected, _CLASS_FADING, belief, offsets)
            self._growth[index][stage].count(num_held, last - num_held, sum(expected), belief)
            self._expected_missed += belief * (sum(_TYPICAL_MISSES[index][:last]) + sum(offsets))
        self._missed = _SKILL_FADING * self._missed + was_rejected
        self._expected_missed *= _SKILL_FADING
        if self.num_rounds % _TABLES_EVERY == 0 or self.num_rounds < _TABLES_EVERY:
            self._tables, self._usual = {}, None

    # -- runs ---------------------------------------------------------------------------------

    def observe_start(self, told: RequestClass | None, is_after_whole: bool, is_first_held: bool) -> None:
        """Count in what state a round of a session that was told this class began."""
        self._runs.setdefault(told, _Runs()).add(is_after_whole, is_first_held)

    @property
    def run_log_odds(self) -> float:
        """How much the odds of a first token rise by a whole proposal before it, within a class; 0 or more."""
        known = [runs.log_odds() for runs in self._runs.values()]
        weight = sum(count for _, count in known)
        return max(0.0, sum(odds * count for odds, count in known) / weight) if weight else 0.0


class SessionAcceptance:
    """What is known of one session with one kind of drafter.

    `survival` is that of a proposal made now, `survival_ahead` what to expect over the rest of the answer.
    """

    __slots__ = (
        "_drafter",
        "_num_believed",
        "_offsets",
        "_outlook",
        "_rates",
        "_stage",
        "_told",
        "_turned_out",
        "_was_whole",
        "beliefs",
        "num_positions",
        "rates",
        "survival",
        "survival_ahead",
    )

    def __init__(
        self, drafter: DrafterAcceptance, request_class: RequestClass | None, num_positions: int, stage: int = 0
    ) -> None:
        self.beliefs = drafter.first_beliefs(request_class)
        self._told = request_class
        self._turned_out = [0.0] * len(REQUEST_CLASSES)
        self._num_believed = 0
        self._was_whole: bool | None = None
        self._drafter = drafter
        drafter.reach(min(num_positions, MAX_POSITIONS - 1) + 1)
        self._rates = _Rates()
        self._outlook = 0.0
        self._stage = stage
        self.num_positions = min(num_positions, MAX_POSITIONS - 1)
        self.rates: list[float] = []
        self.survival: list[float] = []
        self.survival_ahead: list[float] = []
        self._refresh()

    @property
    def request_class(self) -> RequestClass:
        """The likeliest class by now."""
        return REQUEST_CLASSES[max(range(len(self.beliefs)), key=self.beliefs.__getitem__)]

    def observe(
        self,
        num_held: int,
        num_looked_at: int,
        *,
        is_next_held: bool | None = None,
        confidences: Sequence[float] = (),
        num_asked: int = 0,
    ) -> None:
        """Take a round in which `num_looked_at` drafted tokens were verified and the first `num_held` held.

        `is_next_held` says of the first token that was drafted and cut off before the verification whether it was the
        target's own all the same; None where that is not known. Unlikely tokens are cut off: without their misses the
        rates would be those of the likely ones. `num_asked` is how many tokens a draft had that might end early: where
        it ends counts as a miss, so that rates are those of what comes of asking.
        """
        if num_looked_at == 0 and is_next_held is None:
            return
        num_come, was_rejected = num_held, num_held < num_looked_at or is_next_held is False
        num_held = min(num_held + (1 if is_next_held else 0), MAX_POSITIONS - 1)
        if confidences:
            self._drafter.calibration.observe(confidences[: num_held + (1 if was_rejected else 0)], num_held)
        if self._was_whole is not None:
            self._drafter.observe_start(self._told, self._was_whole, num_held > 0)
        self._was_whole = not was_rejected
        if num_asked:
            self._drafter.reach_of_drafts.observe(num_asked, len(confidences), num_looked_at, num_come)
            num_held, was_rejected = min(num_come, MAX_POSITIONS - 1), num_come < num_asked
        self._believe(num_held, was_rejected)
        self._rates.add(num_held, was_rejected, _SESSION_FADING, 1.0, [*self._offsets, 0.0])
        self._drafter.observe(self.beliefs, self._stage, num_held, was_rejected)
        self._refresh()

    def move_to(self, stage: int) -> None:
        """The answer has come to another stage."""
        self._stage = stage
        self._refresh()

    def sharpened(self, confidences: Sequence[float]) -> list[float]:
        """The survival of a proposal's positions, given the drafter's confidence in each of its tokens."""
        return list(accumulate(self._drafter.calibration.chances(confidences), mul))

    @property
    def has_ended_early(self) -> bool:
        """Whether drafts of its drafter are seen to end early."""
        return self._drafter.reach_of_drafts.has_ended_early

    @property
    def drafted(self) -> list[float]:
        """How likely each position is drafted, if it is asked for; () for all of them."""
        return self._drafter.reach_of_drafts.drafted(self.survival)

    @property
    def calibration(self) -> Calibration:
        """What its drafter's confidence is worth."""
        return self._drafter.calibration

    def _believe(self, num_held: int, was_rejected: bool) -> None:
        posterior = []
        for belief, table in zip(self.beliefs, self._drafter.tables(self._stage), strict=True):
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
        usual, now = self._mixed(self._drafter.usual_rates()), self._mixed(self._drafter.tables(self._stage))
        outlook = math.prod(usual[:_OUTLOOK])
        if (moved := abs(outlook - self._outlook)) > _MOVED:
            self._rates.fade(max(0.0, 1.0 - 3.0 * moved))
        self._outlook = outlook
        rates, survival, product = [], [], 1.0
        ahead, usual_product = [], 1.0
        for prior, prior_now, hits, misses in zip(usual, now, self._rates.hits, self._rates.misses, strict=False):
            rate = min(_HIGHEST, max(_LOWEST, (hits + _SESSION_DOUBT * prior) / (hits + misses + _SESSION_DOUBT)))
            usual_product *= rate
            rate = adjusted(rate, prior_now * (1.0 - prior) / (prior * (1.0 - prior_now)))
            product *= rate
            rates.append(rate)
            survival.append(product)
            ahead.append(max(product, usual_product))
        self.rates, self.survival, self.survival_ahead = rates, survival, ahead
        self._offsets = list(map(sub, usual, now))

    def _mixed(self, tables: Sequence[Sequence[float]]) -> list[float]:
        """Rates by position, of the classes by how far they are believed in."""
        first, second, third, fourth, fifth = self.beliefs
        columns = zip(*(table[: self.num_positions] for table in tables), strict=True)
        return [first * a + second * b + third * c + fourth * d + fifth * e for a, b, c, d, e in columns]


def stage_of(num_tokens: int) -> int:
    """The stage of an answer of so many tokens."""
    return min(len(_GROWTH) - 1, (num_tokens // _FIRST_STAGE).bit_length())


def _typical_growth(name: RequestClass) -> tuple[float, ...]:
    return (1.0,) * len(_GROWTH) if name == "structured" else _GROWTH


def _misses(request_class: RequestClass) -> tuple[float, ...]:
    rates = _TYPICAL[request_class]
    return tuple(1.0 - rates[min(j, len(rates) - 1)] for j in range(MAX_POSITIONS))


_TYPICAL_MISSES = tuple(_misses(request_class) for request_class in REQUEST_CLASSES)
