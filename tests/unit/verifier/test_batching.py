"""Which proposals a step looks at, and how far: sessions that found no place in one step come into the next."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.messages import Open, SamplingParams
from deployments.verifier.batching import Batching
from deployments.verifier.scheduler import StepBudget
from deployments.verifier.session import Session

BUDGET = StepBudget(max_step_tokens=8, prompt_tokens=4, max_step_sessions=64, max_scored_tokens=64)


def session_of(index: int, survival: tuple[float, ...]) -> Session:
    """One that has asked for its proposal to be verified, everything before it being computed."""
    nobody: Any = None
    opened = Open(
        session=index,
        epoch=(1, index),
        tokens=(5, 6, 7),
        params=SamplingParams(),
        max_context_tokens=50,
        request=f"r{index}",
    )
    session = Session(index, nobody, opened, opened.epoch, [5, 6, 7], "drafter-0", 4)
    session.computed_len = 2
    session.proposal, session.survival = (8,) * len(survival), survival
    return session


@pytest.mark.parametrize("num_sessions", [1, 2, 12])
def test_what_was_left_out_of_a_proposal_is_not_counted_when_it_is_looked_at_again(num_sessions: int) -> None:
    batching = Batching(BUDGET, (), can_split=False)
    sessions = [session_of(index, (0.9, 0.004, 0.004, 0.004)) for index in range(num_sessions)]
    for _ in range(3):
        assert batching.select(sessions) == sessions
        assert all(len(session.survival) == len(session.proposal) <= 1 for session in sessions)


def test_a_proposal_behind_tokens_that_are_yet_to_be_read_is_left_alone() -> None:
    """One that was moved, say: the step that reads the last of them looks at the proposal as well."""
    moved, other = session_of(1, (0.9, 0.9)), session_of(2, (0.9, 0.004, 0.004))
    moved.computed_len = 0
    assert Batching(BUDGET, (), can_split=False).select([moved, other]) == [moved, other]
    assert len(moved.proposal) == 2
    assert len(other.proposal) < 3


@pytest.mark.parametrize(("looks_between", "expected_ms"), [(True, 30.0), (False, 10.0)])
def test_who_comes_back_behind_a_step_may_have_come_at_any_time_of_it(
    monkeypatch: pytest.MonkeyPatch, looks_between: bool, expected_ms: float
) -> None:
    """Sessions that are away for ten ms, seen thirty ms later as a step was running: they are not slower for that."""
    now_ms = 0.0
    monkeypatch.setattr("deployments.verifier.batching._now_ms", lambda: now_ms)
    batching = Batching(StepBudget(max_step_tokens=64, prompt_tokens=4, max_step_sessions=64), (), can_split=False)
    session = session_of(1, ())

    def round_of(took_ms: float, *, is_behind_step: bool) -> None:
        nonlocal now_ms
        batching.left(session, 0, 1)
        if is_behind_step:
            batching.ran([], now_ms + 1.0, took_ms - 2.0)
        now_ms += took_ms
        if looks_between:
            asyncio.run(batching.waits([], asyncio.Event()))
        batching.came_back(session.id, 0)
        asyncio.run(batching.waits([], asyncio.Event()))

    for _ in range(40):
        round_of(10.0, is_behind_step=False)
    for _ in range(400):
        round_of(30.0, is_behind_step=True)
    batching.left(session, 0, 1)
    assert batching.policy._away_ms(batching.policy._away[session.id]) == pytest.approx(expected_ms, rel=0.05)
