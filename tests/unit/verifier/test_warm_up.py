"""Timed shapes before serving: within the budget, within the engine's room, and nothing left behind."""

from __future__ import annotations

from deployments.verifier.fake_engine import FakeEngine
from deployments.verifier.warm_up import time_steps


class Clock:
    """Goes on by a millisecond whenever it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


def test_shapes_are_timed_from_small_to_large_and_the_engine_is_left_empty():
    engine = FakeEngine(max_sessions=16)
    timings = time_steps(engine, max_step_tokens=64, max_lookahead=4, budget_s=100.0, clock=Clock())
    found = [(timing.shape.num_sequences, timing.shape.num_tokens) for timing in timings]
    expected = [(n, n * (1 + k)) for n in (1, 2, 4, 8, 16) for k in (0, 1, 2, 4) if n * (1 + k) <= 64]
    assert found == expected
    assert all(timing.step_ms > 0.9 for timing in timings)
    assert not engine.open_sessions


def test_the_budget_ends_it():
    engine = FakeEngine()
    timings = time_steps(engine, max_step_tokens=512, max_lookahead=8, budget_s=0.03, clock=Clock())
    assert 0 < len(timings) < 6
    assert not engine.open_sessions


def test_a_context_that_is_too_short_is_not_timed():
    engine = FakeEngine(max_context_tokens=12)
    assert time_steps(engine, max_step_tokens=512, max_lookahead=8, budget_s=1.0) == ()
