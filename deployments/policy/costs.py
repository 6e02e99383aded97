"""What a verify step and a draft batch will take, in milliseconds, learnt from those that have run.

A step's time is a plane through its features times a correction for its number of tokens. The plane
extrapolates; the corrections are a table and hold the staircase (captured shapes, tiles, experts).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from deployments.policy.regression import Regression
from deployments.timing import StepShape, StepTiming

_REFRESH_AFTER, _REFRESH_SHARE = (8, 32), 8
"""Steps between two looks at all that is known: from the first to the last of these, one in so many of those observed.
A look takes as long as ten observations.
"""
_EXACT_TOKENS = 64
_BUCKETS_PER_OCTAVE = 32
_MEMORY = 24
"""Steps that a table entry remembers."""
_CAUTION = 1.0
"""Steps' worth of doubt about a correction: with one observation half of it is believed."""
_OUTLIER = 0.5
"""A relative error beyond this counts less: a hiccup of the machine, or the start of a change."""

_DRAFT_TOLERANCE_MS = 1.0
"""Drafts that were there already take no time: below this, errors count by their size and not by their ratio."""
_SURPRISE = 0.7
"""What each outlier leaves of an entry's memory: a few in a row are no hiccup but a change."""


class ErrorTracker:
    """The median relative error of the latest predictions."""

    def __init__(self, memory: int = 128) -> None:
        self._errors: deque[float] = deque(maxlen=memory)

    def add(self, predicted: float, measured: float) -> None:
        """Count one prediction."""
        self._errors.append(abs(predicted - measured) / measured)

    @property
    def median(self) -> float:
        """0 before any prediction."""
        return median(self._errors) if self._errors else 0.0


class StepCosts:
    """T(shape) of one verifier."""

    def __init__(self) -> None:
        self._plane = Regression((2.0, 0.1, 0.05, 0.05, 0.1), (10.0, 1.0, 0.5, 0.5, 1.0))
        self._weights: Sequence[float] = self._plane.weights
        self._logs: dict[int, float] = {}
        self._counts: dict[int, float] = {}
        self._shapes: dict[int, StepShape] = {}
        self._corrections: NDArray[np.float64] = np.ones(0)
        self._num_stale = 0
        self.num_observed = 0
        self.error = ErrorTracker()

    def seed(self, timings: Iterable[StepTiming]) -> None:
        """Start from steps that were timed when the verifier warmed up."""
        measured = list(timings)
        for timing in measured:
            self._plane.observe(_features(timing.shape), timing.step_ms)
        self._refresh()
        for timing in measured:
            self._correct(timing.shape, timing.step_ms)
        self._refresh()

    def observe(self, shape: StepShape, step_ms: float) -> None:
        """Take a step that has run."""
        if step_ms <= 0.0 or shape.num_tokens <= 0:
            return
        predicted = self.predict(shape)
        self.error.add(predicted, step_ms)
        relative_error = abs(predicted - step_ms) / step_ms
        trust = 1.0 if relative_error <= _OUTLIER else _OUTLIER / relative_error
        self._plane.observe(_features(shape), step_ms, trust)
        self._correct(shape, step_ms)
        self._num_stale += 1
        self.num_observed += 1
        soonest, latest = _REFRESH_AFTER
        if self._num_stale >= min(self.num_observed, max(soonest, min(latest, self.num_observed // _REFRESH_SHARE))):
            self._refresh()

    def predict(self, shape: StepShape) -> float:
        """The time of one step."""
        return self._line(shape) * self._correction(shape.num_tokens)

    def curve(self, shape: StepShape, num_more: int) -> NDArray[np.float64]:
        """The times of this step with 0 .. num_more further drafted tokens: (1 + num_more,)."""
        first, weights = shape.num_tokens, self._weights
        start, slope = self._line(shape), weights[1] + weights[2]
        self._correction(first + num_more)
        corrections = self._corrections[first : first + num_more + 1]
        return corrections * (start + slope * np.arange(num_more + 1))

    def prompts_ms(self, shape: StepShape, num_prompt_tokens: int, num_more: int = 0) -> NDArray[np.float64]:
        """What so many prompt tokens add to this step, which reads none, with 0 .. num_more further drafted tokens."""
        num_tokens = shape.num_tokens + num_prompt_tokens
        read = msgspec.structs.replace(shape, num_tokens=num_tokens, num_prompt_tokens=num_prompt_tokens)
        return self.curve(read, num_more) - self.curve(shape, num_more)

    def _line(self, shape: StepShape) -> float:
        fixed, token, row, sequence, context = self._weights
        rows = shape.num_tokens - shape.num_prompt_tokens
        line = fixed + token * shape.num_tokens + row * rows
        return max(1e-3, line + sequence * shape.num_sequences + context * shape.num_context_tokens / 1024)

    def _correct(self, shape: StepShape, step_ms: float) -> None:
        bucket = _bucket(shape.num_tokens)
        found = math.log(step_ms / self._line(shape))
        count = min(self._counts.get(bucket, 0.0), _MEMORY - 1)
        known = self._logs.get(bucket, 0.0)
        if count >= 4 and abs(found - known) > _OUTLIER:
            found = known + math.copysign(_OUTLIER, found - known)
            count *= _SURPRISE
        self._logs[bucket] = known + (found - known) / (count + 1)
        self._counts[bucket] = count + 1
        self._shapes[bucket] = shape

    def _correction(self, num_tokens: int) -> float:
        while len(self._corrections) <= num_tokens:
            self._extend(2 * num_tokens + 64)
        return float(self._corrections[num_tokens])

    def _refresh(self) -> None:
        """Take over the plane's new fit, without changing what is said of shapes that were seen."""
        self._num_stale = 0
        before = {bucket: self._line(shape) for bucket, shape in self._shapes.items()}
        self._weights = self._plane.weights
        for bucket, shape in self._shapes.items():
            self._logs[bucket] += math.log(before[bucket] / self._line(shape))
        self._extend(max(len(self._corrections), 128))

    def _extend(self, size: int) -> None:
        """The table for every number of tokens: between known entries a line, beyond them the nearest."""
        known = sorted(self._counts.items())
        if known:
            logs = [self._logs[bucket] * count / (count + _CAUTION) for bucket, count in known]
            self._corrections = np.exp(np.interp(np.arange(size), [_first_of(bucket) for bucket, _ in known], logs))
        else:
            self._corrections = np.ones(size)


_STEPS_MEMORY = 32
"""Batches that tell how many steps are run of those that were asked for; before the first, all of them are."""


class DraftCosts:
    """D of one drafter: the time of a batch by its longest lookahead and the sum of all its tokens.

    Batches may end early: `steps` says how many steps are run, by how many were asked for.
    """

    def __init__(self) -> None:
        self._plane = Regression((0.5, 0.5, 0.05), (5.0, 2.0, 0.5))
        self._shares: list[float] = []
        self._num_asked: list[int] = []

    def observe(self, longest: int, num_tokens: int, draft_ms: float) -> None:
        """Take a batch that was drafted."""
        if longest > 0:
            self._plane.observe((1.0, longest, num_tokens), draft_ms, tolerance=_DRAFT_TOLERANCE_MS)

    def observe_steps(self, num_asked: int, num_run: int) -> None:
        """Take a batch of which so many steps were asked for."""
        num_new = num_asked - len(self._shares)
        self._shares.extend([1.0] * num_new)
        self._num_asked.extend([1] * num_new)
        for index in range(num_asked):
            self._num_asked[index] = count = min(_STEPS_MEMORY, self._num_asked[index] + 1)
            self._shares[index] += ((index < num_run) - self._shares[index]) / count

    def steps(self, limit: int) -> list[float]:
        """How many steps are likely to be run if 0, 1 .. `limit` are asked for."""
        shares = self._shares[:limit]
        return list(accumulate(shares + [1.0] * (limit - len(shares)), initial=0.0))

    @property
    def parts(self) -> tuple[float, float, float]:
        """Fixed, per step of the longest lookahead, per token."""
        fixed, step, token = self._plane.weights
        return fixed, step, token

    def predict(self, longest: int, num_tokens: int) -> float:
        """The time of one batch."""
        return self._plane.predict((1.0, longest, num_tokens)) if longest else 0.0


def mean_parts(costs: Sequence[DraftCosts]) -> tuple[float, float, float]:
    """The parts of several drafters, averaged; those of one that nothing is known of where there is none."""
    first, step, token = zip(*(one.parts for one in costs or (DraftCosts(),)), strict=True)
    return sum(first) / len(first), sum(step) / len(step), sum(token) / len(token)


def _features(shape: StepShape) -> tuple[float, ...]:
    rows = shape.num_tokens - shape.num_prompt_tokens
    return (1.0, shape.num_tokens, rows, shape.num_sequences, shape.num_context_tokens / 1024)


def _bucket(num_tokens: int) -> int:
    if num_tokens <= _EXACT_TOKENS:
        return num_tokens
    return _EXACT_TOKENS + int(_BUCKETS_PER_OCTAVE * math.log2(num_tokens / _EXACT_TOKENS))


def _first_of(bucket: int) -> int:
    if bucket <= _EXACT_TOKENS:
        return bucket
    return math.ceil(_EXACT_TOKENS * 2 ** ((bucket - _EXACT_TOKENS) / _BUCKETS_PER_OCTAVE))
