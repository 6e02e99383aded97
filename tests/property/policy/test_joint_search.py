"""The joint search against every vector of lookaheads, on small cases with staircase costs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.policy.lookahead import Candidate, better, choose, choose_alone, choose_both, score

rates = st.floats(0.0, 1.0)


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    made = []
    for _ in range(draw(st.integers(1, 4))):
        conditional = draw(st.lists(rates, min_size=0, max_size=3))
        survival = list(itertools.accumulate(conditional, lambda a, b: a * b))
        made.append(Candidate(survival, draw(st.sampled_from([1.0, 0.4])), draw(st.booleans())))
    return made


@st.composite
def staircases(draw: st.DrawFn) -> list[float]:
    """Flat for a few tokens, then up: by anything from nothing to a multiple of the first step."""
    times = [draw(st.floats(1.0, 20.0))]
    while len(times) < 13:
        width, height = draw(st.integers(1, 5)), draw(st.floats(0.0, 30.0))
        times += [times[-1] + height] * width
    return times[:13]


def brute_force(
    candidates: Sequence[Candidate], step_ms: Sequence[float], away_ms: Sequence[float], room: int
) -> float:
    """The best rate of all vectors."""
    best = 0.0
    ranges = [range(len(c.survival if c.is_free else c.survival[: len(away_ms) - 1]) + 1) for c in candidates]
    for vector in itertools.product(*ranges):
        if sum(vector) > room:
            continue
        gain = sum(c.weight * (1.0 + sum(c.survival[:k])) for k, c in zip(vector, candidates, strict=True))
        cap = max((k for k, c in zip(vector, candidates, strict=True) if not c.is_free), default=0)
        best = max(best, gain / (step_ms[sum(vector)] + away_ms[cap]))
    return best


@settings(max_examples=300, deadline=None)
@given(candidates(), staircases(), st.lists(st.floats(0.0, 10.0), min_size=4, max_size=4), st.integers(0, 12))
def test_no_vector_of_lookaheads_is_better(
    candidates: list[Candidate], step_ms: list[float], steps: list[float], room: int
):
    away_ms = list(itertools.accumulate(steps))
    times_ms = np.array(away_ms)[:, None] + np.array(step_ms[: room + 1])
    choice = choose(candidates, times_ms)
    best = brute_force(candidates, step_ms, away_ms, room)
    found = score(choice.lookaheads, candidates, times_ms).rate
    assert sum(choice.lookaheads) <= room
    # Positions that hold less than three times in a thousand are left out, which is what the last per cent is for.
    assert found >= 0.99 * best
    assert found == pytest.approx(choice.rate)


@settings(max_examples=200, deadline=None)
@given(st.lists(rates, min_size=0, max_size=8), st.sampled_from([1.0, 0.4]), staircases(), st.booleans())
def test_one_session_alone_is_decided_as_in_the_joint_search(
    conditional: list[float], weight: float, times_ms: list[float], is_free: bool
):
    candidate = Candidate(list(itertools.accumulate(conditional, lambda a, b: a * b)), weight, is_free)
    by_cap = np.tile(times_ms[:9], (1 if is_free else 9, 1))
    joint = choose([candidate], by_cap)
    alone = better(*choose_alone(candidate, times_ms))
    assert alone.rate == pytest.approx(joint.rate)
    assert alone.rate == pytest.approx(score(alone.lookaheads, [candidate], np.tile(times_ms, (9, 1))).rate)


def test_of_caps_that_promise_about_as_much_the_lowest_is_taken():
    survival = [0.9, 0.8, 0.7, 0.6]
    gains = [1.0 + sum(survival[:k]) for k in range(5)]
    rates = [0.5, 0.8, 0.99, 1.0, 0.9]
    times_ms = np.array([gain / rate for gain, rate in zip(gains, rates, strict=True)])
    by_cap = np.full((5, 5), 1e9)
    np.fill_diagonal(by_cap, times_ms)
    for given_up, cap in ((1.0, 3), (1.009, 3), (1.02, 2), (1.2, 2), (1.3, 1)):
        _, drafted = choose_both([Candidate(survival)], by_cap, given_up)
        assert drafted is not None
        assert (drafted.cap, drafted.lookaheads) == (cap, (cap,))
