"""Sessions without text: what they draft well is drawn from profiles of acceptance by position (profiles.json), or as
it was recorded of real answers (recorded.json, by evaluation/load/texts.py from the pocket pair).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol

from deployments.messages import RequestClass
from deployments.policy.confidence import CONFIDENCE_EDGES

DEEPEST = 64
_MIDDLES = [0.5 * (low + high) for low, high in zip((0.0, *CONFIDENCE_EDGES), (*CONFIDENCE_EDGES, 1.0), strict=True)]
_NORMAL = NormalDist()
_INSIGHT = 1.1
"""The standard deviation of what a drafter knows of a token, where what it does not know has one of 1: with this, its
confidence is spread as that of the pocket pair's assistant is.
"""
_TOTAL = (1.0 + _INSIGHT**2) ** 0.5


def profiles() -> dict[RequestClass, tuple[float, ...]]:
    """Cumulative acceptance by position and class; the last conditional rate goes on for ever."""
    text = files("autoscaling.simulator").joinpath("profiles.json").read_text("utf-8")
    found: dict[RequestClass, list[float]] = json.loads(text)["cumulative"]
    return {name: tuple(rates) for name, rates in found.items()}


def conditional(cumulative: Sequence[float]) -> tuple[float, ...]:
    """The chance of each position given that those before it held."""
    rates = [min(1.0, now / before) for before, now in zip((1.0, *cumulative), cumulative, strict=False)]
    return tuple(rates) + (rates[-1],) * (DEEPEST - len(rates))


class Recording(NamedTuple):
    """By how much of the answer is there: how many tokens of a draft hold, and the bins of its confidences, a digit
    each (those of deployments/policy/confidence.py).
    """

    held: Sequence[int]
    confidences: Sequence[str]


@cache
def recordings() -> dict[RequestClass, list[Recording]]:
    """Recorded answers by class."""
    text = files("autoscaling.simulator").joinpath("recorded.json").read_text("utf-8")
    found: dict[RequestClass, list[dict[str, Any]]] = json.loads(text)["answers"]
    return {
        name: [Recording(one["held"], one["confidences"].split(" ")) for one in answers]
        for name, answers in found.items()
    }


class Output(Protocol):
    """What a session answers: `length` tokens."""

    length: int

    def num_held(self, position: int, lookahead: int) -> int:
        """How many of `lookahead` tokens, drafted after `position` tokens of output, are the target's own."""
        ...

    def confidence(self, position: int, index: int) -> float | None:
        """How sure the drafter is of the token at `index` of a draft after `position` tokens; None if not known."""
        ...


class RecordedText:
    """An answer as it was recorded. What holds in it comes in runs, which draws by position do not show."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.length = max(1, len(recording.held))

    def num_held(self, position: int, lookahead: int) -> int:
        """As many as were seen to hold there."""
        held = self._recording.held
        return min(lookahead, held[position]) if position < len(held) else lookahead

    def confidence(self, position: int, index: int) -> float | None:
        """The middle of its bin; behind what was recorded, that of the last token."""
        bins = self._recording.confidences
        digits = bins[position] if position < len(bins) else ""
        return _MIDDLES[int(digits[min(index, len(digits) - 1)])] if digits else None


class Text:
    """One output. Whether a token can be guessed is drawn once per position of the output, so that two policies
    see the same text: position j of a round holds if the draw there is below the rate of position j.

    `phases` are (tokens, conditional rates): the class may change on the way. `spread` makes sessions differ:
    the standard deviation of the log odds of a session's rates.

    What the drafter knows of a token is drawn as well, a part of what decides whether it holds: its confidence is the
    chance that follows from it, so that it is right on average.
    """

    def __init__(self, phases: Sequence[tuple[int, Sequence[float]]], seed: int, spread: float = 0.0) -> None:
        self._random = random.Random(seed)
        shift = 2.718281828 ** self._random.gauss(0.0, spread) if spread else 1.0
        self._phases = [(length, _shifted(rates, shift)) for length, rates in phases]
        self.length = sum(length for length, _ in phases)
        self._draws: list[float] = []
        self._hints = random.Random(f"hints {seed}")
        self._known: list[float] = []

    def num_held(self, position: int, lookahead: int) -> int:
        """How many of `lookahead` tokens, drafted after `position` tokens of output, are the target's own."""
        rates = self._rates(position)
        while len(self._draws) < position + lookahead:
            self._draws.append(self._random.random())
        for j in range(lookahead):
            if self._draws[position + j] >= rates[j]:
                return j
        return lookahead

    def confidence(self, position: int, index: int) -> float | None:
        """The chance of the token, by what the drafter knows of it."""
        rates, at = self._rates(position), position + index
        while len(self._draws) <= at:
            self._draws.append(self._random.random())
        while len(self._known) <= at:
            surprise = _TOTAL * _quantile(self._draws[len(self._known)])
            mean = -_INSIGHT / _TOTAL**2 * surprise
            self._known.append(self._hints.gauss(mean, 1.0 / _TOTAL))
        return _NORMAL.cdf(_TOTAL * _quantile(rates[index]) + _INSIGHT * self._known[at])

    def _rates(self, position: int) -> Sequence[float]:
        for length, rates in self._phases:
            if position < length:
                return rates
            position -= length
        return self._phases[-1][1]


def _shifted(rates: Sequence[float], shift: float) -> tuple[float, ...]:
    return tuple(rate * shift / (rate * shift + 1.0 - rate) for rate in rates)


def _quantile(chance: float) -> float:
    return _NORMAL.inv_cdf(min(1.0 - 1e-6, max(1e-6, chance)))
