"""Timed shapes before serving: within the budget, within the engine's room, and nothing left behind."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.policy.hardware import pairs, timings
from deployments.timing import StepTiming
from deployments.verifier.fake_engine import FakeEngine
from deployments.verifier.scheduler import StepBudget
from deployments.verifier.warm_up import time_steps


class Clock:
    """Goes on by a millisecond whenever it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


def budget(max_step_tokens: int = 512, max_step_sessions: int = 256, prompt_tokens: int = 32) -> StepBudget:
    return StepBudget(max_step_tokens=max_step_tokens, max_step_sessions=max_step_sessions, prompt_tokens=prompt_tokens)


def plain(steps: Sequence[StepTiming]) -> list[tuple[int, int]]:
    """Sequences and tokens of the steps without a prompt and with short contexts."""
    shapes = [one.shape for one in steps if not one.shape.num_prompt_tokens]
    return [(one.num_sequences, one.num_tokens) for one in shapes if one.num_context_tokens < 100 * one.num_sequences]


def test_shapes_are_timed_from_small_to_large_and_the_engine_is_left_empty():
    engine = FakeEngine(max_sessions=16)
    found = time_steps(engine, budget(64), max_lookahead=4, budget_s=100.0, clock=Clock())
    assert plain(found) == [(n, n * (1 + k)) for n in (1, 2, 4, 8, 16) for k in (0, 1, 2, 4) if n * (1 + k) <= 64]
    assert all(timing.step_ms > 0.9 for timing in found)
    assert not engine.open_sessions


def test_as_many_sequences_are_timed_as_a_step_may_have():
    engine = FakeEngine(max_sessions=300)
    found = time_steps(engine, budget(max_step_sessions=128), max_lookahead=2, budget_s=100.0, clock=Clock())
    assert max(plain(found)) == (128, 384)


def test_prompts_and_long_contexts_are_timed_too():
    engine = FakeEngine(max_context_tokens=1200, max_sessions=16)
    found = [one.shape for one in time_steps(engine, budget(64), max_lookahead=1, budget_s=100.0, clock=Clock())]
    prompts = [(one.num_sequences, one.num_tokens, one.num_prompt_tokens) for one in found if one.num_prompt_tokens]
    assert prompts == [(2, 33, 32), (9, 40, 32)]
    assert [one.num_sequences for one in found if one.num_context_tokens > 1000 * one.num_sequences] == [1, 8]


def test_named_hardware_is_known_by_the_shapes_that_would_be_timed():
    engine = FakeEngine(max_context_tokens=1200, max_sessions=300)
    pair = pairs()["h100x2-l4-31b"]
    found = time_steps(engine, budget(pair.max_step_tokens), max_lookahead=8, budget_s=1e3, clock=Clock())

    def sizes(steps: Sequence[StepTiming]) -> list[tuple[int, int, int]]:
        return [(one.shape.num_sequences, one.shape.num_tokens, one.shape.num_prompt_tokens) for one in steps]

    assert sizes(timings(pair, 8, 32)) == sizes(found)


def test_the_budget_ends_it():
    engine = FakeEngine()
    found = time_steps(engine, budget(), max_lookahead=8, budget_s=0.03, clock=Clock())
    assert 0 < len(found) < 6
    assert not engine.open_sessions


def test_the_budget_ends_the_reading_of_contexts():
    engine = FakeEngine(max_context_tokens=1200, max_sessions=8)
    found = time_steps(engine, budget(64), max_lookahead=0, budget_s=30.0, clock=lambda: float(len(engine.steps)))
    assert max(one.shape.num_context_tokens for one in found) < 1000
    assert len(engine.steps) == 30
    assert engine.steps[-1][0].is_partial
    assert not engine.open_sessions


def test_a_context_that_is_too_short_is_not_timed():
    engine = FakeEngine(max_context_tokens=12)
    assert time_steps(engine, budget(), max_lookahead=8, budget_s=1.0) == ()
