"""What rounds really take, against what the model says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deployments.policy.cycle import Cycle
from deployments.policy.exposure import Exposure
from deployments.policy.round_times import Lateness, RoundTimes, company


def test_company_doubles():
    assert [company(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 256)] == [0, 0, 1, 2, 2, 3, 3, 4, 8]


def model(num_sessions: float, context: float) -> float:
    return 1.0 + 0.5 * num_sessions + context / 1000


def test_lateness_is_believed_after_a_few_rounds_and_borrowed_by_the_nearest_company():
    times = RoundTimes()
    assert times.drafted_lateness(1).after(2.0) == 2.0
    for _ in range(8):
        times.observe_drafted(1, 2.0, 3.0)
    assert times.drafted_lateness(1).after(2.0) == pytest.approx(3.0, abs=0.16)
    assert times.drafted_lateness(4) == times.drafted_lateness(1)
    assert times.bare_factor(1, model) == 1.0
    assert (times.num_cycles(1, True), times.num_cycles(4, True)) == (8, 0)


def test_rounds_of_one_lookahead_say_that_others_are_as_late_and_not_as_many_times_longer():
    times = RoundTimes()
    for _ in range(24):
        times.observe_drafted(4, 1.0, 2.0)
    assert times.drafted_lateness(4).after(5.0) == pytest.approx(6.0, rel=0.05)


@pytest.mark.parametrize(("late_ms", "factor"), [(0.0, 1.3), (0.8, 1.0), (0.3, 1.2), (0.0, 0.8)])
def test_rounds_of_several_lookaheads_tell_the_line(late_ms: float, factor: float):
    times = RoundTimes()
    for i in range(400):
        modelled_ms = 1.0 + i % 5
        times.observe_drafted(4, modelled_ms, late_ms + factor * modelled_ms)
    for modelled_ms in (1.0, 3.0, 6.0):
        assert times.drafted_lateness(4).after(modelled_ms) == pytest.approx(late_ms + factor * modelled_ms, rel=0.06)


def test_a_line_never_promises_less_than_in_proportion():
    """Drafts that are far dearer than modelled do not make the shortest free."""
    times = RoundTimes()
    for i in range(400):
        modelled_ms = 4.0 + i % 5
        times.observe_drafted(1, modelled_ms, 3.0 * modelled_ms - 8.0)
    assert times.drafted_lateness(1).late_ms >= 0.0
    for _ in range(100):
        times.observe_drafted(1, 8.0, 1.0)
    assert times.drafted_lateness(1).late_ms >= 0.0


def test_one_drafted_round_after_a_long_time_without_does_not_stand_for_all():
    times = RoundTimes()
    for _ in range(40):
        times.observe_drafted(1, 2.0, 3.0)
    for _ in range(1000):
        times.observe_bare(1, 0.0, model, 1.5)
    times.observe_drafted(1, 2.0, 3.6)
    assert times.drafted_lateness(1).after(2.0) < 3.2
    for _ in range(12):
        times.observe_drafted(1, 2.0, 3.6)
    assert times.drafted_lateness(1).after(2.0) > 3.4


def test_a_bare_time_stays_what_was_measured_when_the_model_errs():
    times = RoundTimes()
    for step in range(640):  # the model wavers around the truth
        times.observe_bare(8, 0.0, lambda n, context, step=step: model(n, context) * (0.7 + 0.6 * (step % 2)), 10.0)
    for error in (0.6, 1.0, 1.7):
        wrong = lambda n, context, error=error: error * model(n, context)  # noqa: E731
        assert times.bare_factor(8, wrong) * wrong(8, 0.0) == pytest.approx(10.0, rel=0.01)


def test_the_model_tells_how_a_bare_time_changes_with_sessions_and_contexts():
    times = RoundTimes()
    for _ in range(640):
        times.observe_bare(8, 1000.0, model, 2 * model(8, 1000.0))
    for num_sessions, context in ((8, 3000.0), (6, 1000.0), (100, 0.0)):
        told_ms = times.bare_factor(num_sessions, model) * model(num_sessions, context)
        assert told_ms == pytest.approx(2 * model(num_sessions, context), rel=0.01)


def test_many_sessions_share_a_bare_time_with_about_as_many():
    times = RoundTimes()
    for num_sessions in (17, 100):
        for _ in range(64 * num_sessions):
            times.observe_bare(num_sessions, 0.0, model, (1.0 + num_sessions / 100) * model(num_sessions, 0.0))
    assert times.bare_factor(20, model) == pytest.approx(1.17, abs=0.02)
    assert times.bare_factor(110, model) == pytest.approx(2.0, abs=0.02)


def test_one_hiccup_moves_a_time_little():
    times = RoundTimes()
    for _ in range(40):
        times.observe_bare(1, 0.0, model, 1.0)
    before = times.bare_factor(1, model)
    times.observe_bare(1, 0.0, model, 500.0)
    assert times.bare_factor(1, model) < 1.03 * before


def test_eight_sessions_make_one_cycle():
    times = RoundTimes()
    for _ in range(8):
        times.observe_drafted(8, 1.0, 2.0)
        times.observe_bare(8, 0.0, model, 2.0)
    assert times.num_cycles(8, True) == pytest.approx(1.0)
    assert times.num_cycles(8, False) == pytest.approx(1.0)


def test_what_was_not_seen_for_a_while_gives_way_soon():
    times = RoundTimes()
    for _ in range(100):
        times.observe_bare(1, 0.0, model, 2.0)
    for _ in range(100):
        times.observe_drafted(1, 1.0, 1.0)
    for _ in range(3):
        times.observe_bare(1, 0.0, model, 1.0)
    assert times.bare_factor(1, model) * model(1, 0.0) < 1.6


@pytest.mark.parametrize(("num_before", "most_ms"), [(1000, 2.2), (3, 2.7)])
def test_a_probe_does_not_outweigh_what_sessions_had_together_before(num_before: int, most_ms: float):
    times = RoundTimes()
    for _ in range(8 * num_before):
        times.observe_bare(8, 0.0, model, 2.0)
    for _ in range(8 * 100):
        times.observe_drafted(8, 1.0, 1.0)
    for _ in range(8 * 3):
        times.observe_bare(8, 0.0, model, 3.0)
    assert 2.0 < times.bare_factor(8, model) * model(8, 0.0) < most_ms


def test_a_gap_with_a_wait_in_a_queue_tells_nothing():
    exposure = Exposure()
    before = exposure.away_ms([0.0, 0.0])
    exposure.observe_drafted(9.0, 1.0, 0.0, 1)
    exposure.observe_bare(9.0, 0.0, 1)
    assert exposure.away_ms([0.0, 0.0]) == before


@pytest.mark.parametrize("num_sessions", [1, 256])
def test_a_step_of_many_that_waited_for_something_else_is_one_step(num_sessions: int):
    """All of them behind 200 ms of prompts, say: then hops are believed to be no longer than after one such session."""
    exposure = Exposure()
    for _ in range(num_sessions):
        exposure.observe_drafted(205.0, 5.0, 0.3, num_sessions)
        exposure.observe_bare(200.0, 0.3, num_sessions)
    assert max(exposure.away_ms([0.0, 0.0])) < 3.1
    for _ in range(20):
        exposure.observe_drafted(6.0, 5.0, 0.3, num_sessions)
    (_, drafted) = exposure.away_ms([0.0, 0.0])
    assert drafted == pytest.approx(1.0, abs=0.05), "the least counts at once"


@pytest.mark.parametrize("floor", [0, 2])
def test_a_cycle_takes_as_long_as_such_rounds_were_seen_to_take(floor: int):
    cycle = Cycle(
        whole_ms=np.array([5.0, 6.0, 7.0, 9.0]),
        half_ms=np.empty(0),
        away_ms=np.array([1.0, 3.0, 4.0, 5.0]),
        draft_ms=np.array([1.0, 2.0, 3.0, 4.0]),
        step_ms=1.0,
        token_ms=0.25,
        floor=floor,
        bare=Lateness(factor=1.5),
        drafted=Lateness(2.0, 1.1),
    )
    if not floor:
        assert cycle.alone_ms() == pytest.approx(cycle.times_ms.diagonal())
    assert cycle.times_ms[3, 3] == pytest.approx(2.0 + 1.1 * (9.0 + 5.0 + 0.75))
    nothing_ms = 2.0 + 1.1 * (5.0 + 4.0) if floor else 1.5 * (5.0 + 1.0)
    assert cycle.times_ms[0, 0] == pytest.approx(nothing_ms)


def test_a_cycle_is_of_two_halves_where_that_is_clearly_shorter():
    cycle = Cycle(
        whole_ms=np.array([20.0, 20.0, 20.0, 40.0, 40.0]),
        half_ms=np.array([10.0, 10.0, 10.0]),
        away_ms=np.array([1.0, 9.0, 12.0]),
        draft_ms=np.array([0.0, 8.0, 11.0]),
        step_ms=3.0,
        token_ms=0.5,
    )
    together = [20.0 + 9.0, 29.5, 30.0, 50.5, 51.0]
    turns = [max(20.0, 10.0 + 9.0 + 0.5 * half, 2 * (8.0 + 0.5 * half)) for half in (0, 0, 1, 1, 2)]
    assert cycle.times_ms[1] == pytest.approx([min(both) for both in zip(together, turns, strict=True)])
    assert turns[4] < together[4]
    assert cycle.times_ms[0] == pytest.approx(cycle.whole_ms + 1.0), "nobody drafts, so there is nothing to hide"
    near = dataclasses.replace(cycle, half_ms=np.array([14.0, 14.0, 14.0]))
    assert near.times_ms[1, 0] == pytest.approx(29.0), "parting wants to pay for itself"
