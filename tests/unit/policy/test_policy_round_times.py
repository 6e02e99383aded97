"""What rounds really take, against what the model says, and when the other kind of rounds is tried."""

from __future__ import annotations

import pytest

from deployments.messages import RequestClass
from deployments.policy.acceptance import DrafterAcceptance
from deployments.policy.cycle import Cycle
from deployments.policy.exposure import Exposure
from deployments.policy.planner import Planner
from deployments.policy.probing import Probing
from deployments.policy.round_times import RoundTimes, company
from deployments.policy.speculation import Speculation, SpeculationSettings
from deployments.timing import StepShape


def test_company_doubles():
    assert [company(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 256)] == [0, 0, 1, 2, 2, 3, 3, 4, 8]


def model(num_sessions: float, context: float) -> float:
    return 1.0 + 0.5 * num_sessions + context / 1000


def test_a_factor_is_believed_after_a_few_rounds_and_borrowed_by_the_nearest_company():
    times = RoundTimes()
    assert times.drafted_factor(1) == 1.0
    for _ in range(8):
        times.observe_drafted(1, 2.0, 3.0)
    assert times.drafted_factor(1) == pytest.approx(1.5, abs=0.08)
    assert times.drafted_factor(4) == times.drafted_factor(1)
    assert times.bare_factor(1, model) == 1.0
    assert (times.num_cycles(1, True), times.num_cycles(4, True)) == (8, 0)


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


def test_rounds_of_fixed_lookaheads_pay_for_no_probe():
    planner, open_one = alone()
    fixed = Speculation(drafters={}, kind="mtp", num_positions=16, requested=0)
    planner.begins(2, fixed)
    for _ in range(4000):
        planner.on_round(fixed, 0, 0, None, 2, 1.0)
    assert not planner.probing.may_be_due
    for _ in range(200):
        planner.on_round(open_one, 0, 0, None, 2, 1.0)
    assert planner.probing.may_be_due


def test_while_nobody_drafts_plans_become_rare():
    planner, session = alone("creative")
    rounds(planner, session, 200, {False: 0.7, True: 40.0})
    before = planner.stats.num_plans
    rounds(planner, session, 64, {False: 0.7, True: 40.0})
    assert planner.stats.num_plans - before <= 16


def test_a_gap_with_a_wait_in_a_queue_tells_nothing():
    exposure = Exposure()
    before = exposure.by_cap(0.0, 0.0, 1)
    exposure.observe_drafted(9.0, 1.0, 0.0)
    exposure.observe_bare(9.0, 0.0)
    assert exposure.by_cap(0.0, 0.0, 1) == before


def test_a_cycle_alone_is_the_cycle_of_one_session():
    cycle = Cycle(
        whole_ms=[5.0, 6.0, 7.0, 9.0],
        half_ms=(),
        away_ms=[1.0, 3.0, 4.0, 5.0],
        draft_ms=[1.0, 2.0, 3.0, 4.0],
        token_ms=0.25,
    )
    assert cycle.alone(3) == [cycle(k, k)[k] for k in range(4)]


def test_a_wide_gap_is_probed_seldom():
    probing = Probing()
    probing.passed(100.0)
    assert not probing.is_due(1.0, 0.5, 10.0, 48.0)
    probing.passed(2000.0)
    assert probing.is_due(1.0, 0.5, 10.0, 48.0)
    probing.begins()
    probing.passed(100.0)
    assert probing.is_due(1.0, 0.99, 3.0, 48.0)


def rounds(planner: Planner, session: Speculation, count: int, cost_ms: dict[bool, float]) -> list[int]:
    """Rounds of one session whose drafts always hold; they take `cost_ms` by whether anything was drafted."""
    given: list[int] = []
    asked = [(0, None), (planner.lookahead(session), session.forecast)]
    for _ in range(count):
        _, (lookahead, forecast) = asked
        asked = [asked[1], (planner.lookahead(session), session.forecast)]
        given.append(lookahead)
        shape = StepShape(num_sequences=1, num_tokens=1 + lookahead, num_context_tokens=100)
        planner.on_step(shape, 0.5 + 0.1 * lookahead, 1, 1 + lookahead)
        session.acceptance.observe(lookahead, lookahead)
        planner.on_round(session, lookahead, lookahead, forecast, 1, cost_ms[lookahead > 0])
        planner.refresh()
    return given


def alone(request_class: RequestClass = "code") -> tuple[Planner, Speculation]:
    planner = Planner(SpeculationSettings())
    drafters: dict[str, DrafterAcceptance] = {}
    session = Speculation(drafters=drafters, kind="mtp", num_positions=16, request_class=request_class)
    planner.begins(1, session)
    assert planner.lacks_plan(session)
    planner.refresh()
    return planner, session


def test_rounds_that_take_much_longer_than_the_model_says_end_drafting_within_a_few():
    planner, session = alone()
    given = rounds(planner, session, 400, {False: 0.7, True: 40.0})
    assert sum(lookahead > 0 for lookahead in given[24:]) <= 0.03 * len(given[24:])


def test_rounds_that_take_no_longer_are_drafted_for():
    planner, session = alone()
    given = rounds(planner, session, 400, {False: 0.7, True: 0.9})
    assert sum(lookahead > 0 for lookahead in given[100:]) >= 0.9 * len(given[100:])
