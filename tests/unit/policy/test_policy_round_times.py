"""What rounds really take, against what the model says, and when the other kind of rounds is tried."""

from __future__ import annotations

import pytest

from deployments.messages import RequestClass
from deployments.policy.acceptance import DrafterAcceptance
from deployments.policy.cycle import Cycle
from deployments.policy.exposure import Exposure
from deployments.policy.planner import Planner, Speculation, SpeculationSettings
from deployments.policy.probing import Probing
from deployments.policy.round_times import RoundTimes, company
from deployments.timing import StepShape


def test_company_doubles():
    assert [company(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 256)] == [0, 0, 1, 2, 2, 3, 3, 4, 8]


def test_a_factor_is_believed_after_a_few_rounds_and_borrowed_by_the_nearest_company():
    times = RoundTimes()
    assert times.factor(1, True) == 1.0
    for _ in range(8):
        times.observe(1, True, 2.0, 3.0)
    assert times.factor(1, True) == pytest.approx(1.5, abs=0.08)
    assert times.factor(4, True) == times.factor(1, True)
    assert times.factor(1, False) == 1.0
    assert (times.num_cycles(1, True), times.num_cycles(4, True)) == (8, 0)


def test_one_hiccup_moves_a_factor_little():
    times = RoundTimes()
    for _ in range(40):
        times.observe(1, False, 1.0, 1.0)
    times.observe(1, False, 1.0, 500.0)
    assert times.factor(1, False) < 1.03


def test_eight_sessions_make_one_cycle():
    times = RoundTimes()
    for _ in range(8):
        times.observe(8, True, 1.0, 2.0)
    assert times.num_cycles(8, True) == pytest.approx(1.0)


def test_what_was_not_seen_for_a_while_gives_way_soon():
    times = RoundTimes()
    for _ in range(100):
        times.observe(1, False, 1.0, 2.0)
    for _ in range(100):
        times.observe(1, True, 1.0, 1.0)
    for _ in range(3):
        times.observe(1, False, 1.0, 1.0)
    assert times.factor(1, False) < 1.6


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
    planner.sessions[1] = session
    return planner, session


def test_rounds_that_take_much_longer_than_the_model_says_end_drafting_within_a_few():
    planner, session = alone()
    given = rounds(planner, session, 400, {False: 0.7, True: 40.0})
    assert sum(lookahead > 0 for lookahead in given[24:]) <= 0.03 * len(given[24:])


def test_rounds_that_take_no_longer_are_drafted_for():
    planner, session = alone()
    given = rounds(planner, session, 400, {False: 0.7, True: 0.9})
    assert sum(lookahead > 0 for lookahead in given[100:]) >= 0.9 * len(given[100:])
