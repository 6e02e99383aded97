"""When a planner plans, what its rounds teach it, and when it tries the other kind of rounds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deployments.messages import PolicyName, RequestClass
from deployments.policy.acceptance import DrafterAcceptance
from deployments.policy.costs import DraftCosts
from deployments.policy.experience import Ended
from deployments.policy.lookahead import Choice
from deployments.policy.planner import Planner, _beside
from deployments.policy.probing import Probing
from deployments.policy.promises import Promises
from deployments.policy.speculation import Forecast, Probe, Speculation, SpeculationSettings
from deployments.timing import StepShape, StepTiming


def test_rounds_of_fixed_lookaheads_pay_for_no_probe():
    planner, open_one = alone()
    fixed = Speculation(drafters={}, kind="mtp", num_positions=16, requested=0)
    planner.begins(2, fixed)
    for _ in range(4000):
        planner.on_round(fixed, Ended(0, 0, None, 2, 1.0))
    assert not planner.probing.may_be_due
    for _ in range(200):
        planner.on_round(open_one, Ended(0, 0, None, 2, 1.0))
    assert planner.probing.may_be_due


@pytest.mark.parametrize(("requested", "policy"), [(4, None), (None, "constant")])
def test_rounds_of_fixed_lookaheads_tell_what_drafted_rounds_take(requested: int | None, policy: PolicyName | None):
    planner, _ = alone()
    planner.sessions.clear()
    told = Speculation(drafters={}, kind="mtp", num_positions=16, requested=requested, policy=policy)
    planner.begins(2, told)
    forecasts: list[Forecast | None] = [None]
    for _ in range(60):
        planner.lacks_plan(told)
        planner.refresh()
        assert planner.lookahead(told) == 4
        forecasts.append(told.forecast)
        planner.on_step(StepShape(num_sequences=1, num_tokens=5, num_context_tokens=100), 1.0, 1, 5)
        planner.on_round(told, Ended(2, 4, forecasts[-2], 1, 30.0, 12.0))
    (*_, last) = forecasts
    assert last is not None
    assert last.is_drafted
    modelled_ms = last.modelled_ms(4.0, 12.0)
    assert modelled_ms < 25.0
    assert planner.experience.round_times.drafted_lateness(1).after(modelled_ms) == pytest.approx(30.0, rel=0.05)
    assert planner.stats.num_plans <= 12, "there is nothing to decide"


def test_a_lookahead_is_told_by_the_request_before_the_policy():
    settings = SpeculationSettings(policy="constant", num_speculative_tokens=3, max_speculative_tokens=8)
    cases = {(None, None): 3, (5, None): 5, (40, None): 8, (0, "adaptive"): 0, (None, "adaptive"): None,
             (None, "heuristic"): 3}  # fmt: skip
    for (requested, policy), told in cases.items():
        plan = Speculation(drafters={}, kind="mtp", num_positions=16, requested=requested, policy=policy)
        assert plan.told(settings) == told
    bounded = Speculation(drafters={}, kind="mtp", num_positions=2, policy="constant")
    assert bounded.told(settings) == 2


def test_while_nobody_drafts_plans_become_rare():
    planner, session = alone("creative")
    rounds(planner, session, 200, {False: 0.7, True: 40.0})
    before = planner.stats.num_plans
    rounds(planner, session, 64, {False: 0.7, True: 40.0})
    assert planner.stats.num_plans - before <= 16


def test_a_growing_answer_is_planned_for_once_a_stage_while_nobody_drafts():
    planner, session = alone("creative")
    rounds(planner, session, 200, {False: 0.7, True: 40.0})
    before, session.num_tokens = planner.stats.num_plans, 0
    rounds(planner, session, 70, {False: 0.7, True: 40.0})
    assert 4 <= planner.stats.num_plans - before <= 10, "at 8, 16, 32 and 64 tokens, and every 16 rounds"


def bare_rounds(planner: Planner, session: Speculation, shape: StepShape, step_ms: float) -> None:
    """40 rounds of one session for which nobody drafts, each in a step of this shape; they take two ms more than it."""
    for _ in range(40):
        planner.on_step(shape, step_ms, 1, 1)
        planner.on_round(session, Ended(0, 0, None, 1, step_ms + 2.0))


def planned(planner: Planner, session: Speculation) -> Forecast:
    """What is foreseen of rounds with drafts."""
    session.lookahead = None
    assert planner.lacks_plan(session)
    planner.refresh()
    planner.lookahead(session)
    assert session.forecast is not None
    return dataclasses.replace(session.forecast, is_drafted=True)


def seeded(planner: Planner) -> None:
    """The planner knows what steps cost: 10 ms, and 0.5 more for each token."""
    shapes = [StepShape(num_sequences=1, num_tokens=tokens, num_context_tokens=256) for tokens in range(1, 33)]
    prompts = [StepShape(num_sequences=2, num_tokens=1 + n, num_prompt_tokens=n) for n in (4, 8, 16)]
    planner.costs.seed(StepTiming(shape=one, step_ms=10.0 + 0.5 * one.num_tokens) for one in shapes + prompts)


def test_the_time_of_short_prompts_is_taken_off_rounds():
    planner, session = alone()
    seeded(planner)
    bare_rounds(planner, session, StepShape(num_sequences=2, num_tokens=5, num_prompt_tokens=4), 12.5)
    bare_ms = planner.experience.round_times.bare_factor(1, lambda num_sessions, context: 1.0)
    assert bare_ms == pytest.approx(12.5, rel=0.03), "not the 14.5 that they took"


def test_tokens_that_cost_nothing_may_cost_much_beside_prompts():
    """Up to 32 tokens are free, and then each costs as much as two steps."""
    lookaheads = []
    for num_prompt_tokens in (0, 30):
        planner, session = alone("structured")
        shapes = [StepShape(num_sequences=1, num_tokens=tokens) for tokens in range(1, 65)]
        planner.costs.seed(StepTiming(shape=one, step_ms=10.0 + 20.0 * max(0, one.num_tokens - 32)) for one in shapes)
        for _ in range(400):
            shape = StepShape(num_sequences=2, num_tokens=1 + num_prompt_tokens, num_prompt_tokens=num_prompt_tokens)
            planner.on_step(shape, 10.0, 1, 1)
        planner.lacks_plan(session)
        planner.refresh()
        assert session.lookahead is not None
        lookaheads.append(session.lookahead)
    without, beside = lookaheads
    assert 0 < beside <= without / 2


@pytest.mark.parametrize(("free_tokens", "cheaper_ms"), [(0, 0.0), (8, 2.0)])
def test_prompts_cost_a_plan_what_they_cost_more_than_beside_a_token_of_every_session(
    free_tokens: int, cheaper_ms: float
):
    """They are read in any case. Half of eight sessions leave them four of the free tokens, every other time."""
    cycles = []
    for num_prompt_tokens in (0, 8):
        planner, _ = alone()
        shapes = [
            StepShape(num_sequences=8, num_tokens=tokens, num_prompt_tokens=prompt)
            for tokens in range(1, 65)
            for prompt in ((0, 8) if tokens > 8 else (0,))
        ]
        for _ in range(20):
            planner.costs.seed(
                StepTiming(shape=one, step_ms=10.0 + 1.0 * max(0, one.num_tokens - free_tokens)) for one in shapes
            )
        planner.sessions = dict.fromkeys(range(8), planner.sessions[1])
        for _ in range(400):
            shape = StepShape(num_sequences=8, num_tokens=8 + num_prompt_tokens, num_prompt_tokens=num_prompt_tokens)
            planner.on_step(shape, planner.costs.predict(shape), 8, 8)
        cycles.append(planner._cycle(16, 16))
    without, beside = cycles
    assert beside.whole_ms[0] == pytest.approx(without.whole_ms[0], abs=0.2)
    assert without.half_ms[0] - beside.half_ms[0] == pytest.approx(cheaper_ms, abs=0.4)


def test_a_wrong_cost_model_makes_no_step_free_beside_prompts():
    assert _beside(np.array([10.0, 12.0, 14.0]), np.array([2.0, -3.0, -20.0])).tolist() == [12.0, 9.0, 7.0]


def test_rounds_with_long_prompts_tell_nothing():
    planner, session = alone()
    seeded(planner)
    bare_rounds(planner, session, StepShape(num_sequences=2, num_tokens=17, num_prompt_tokens=16), 18.5)
    assert planner.experience.round_times.num_cycles(1, False) == 0.0


def test_a_round_whose_drafts_came_to_nothing_is_no_bare_one():
    planner, session = alone()
    forecast = planned(planner, session)
    for _ in range(40):  # no room for what was drafted, say
        planner.on_round(session, Ended(0, 0, forecast, 1, 20.0))
    assert planner.experience.round_times.num_cycles(1, False) == 0.0


@pytest.mark.parametrize(("request_class", "is_drafted"), [("structured", True), ("code", False)])
def test_a_first_round_is_drafted_for_only_if_that_promises_much(request_class: RequestClass, is_drafted: bool):
    planner = Planner(SpeculationSettings())
    steps = [StepShape(num_sequences=1, num_tokens=tokens, num_context_tokens=16) for tokens in (1, 2, 3, 5, 9, 17)]
    planner.costs.seed(StepTiming(shape=one, step_ms=7.0) for one in steps)
    planner.draft_costs["drafter"] = DraftCosts()
    for lookahead in (1, 2, 4, 8) * 8:
        planner.draft_costs["drafter"].observe(lookahead, lookahead, 0.5 + 2.8 * lookahead)
    session = Speculation(drafters={}, kind="mtp", num_positions=16, request_class=request_class)
    planner.begins(1, session)
    assert planner.lacks_plan(session)
    planner.refresh()
    given = [planner.lookahead(session) for _ in range(2)]
    assert (given[0] > 0) == is_drafted
    assert given[1] > 0, "later ones if it promises anything"


def test_drafting_begins_when_the_answer_has_grown():
    """What does not pay at an answer's beginning is not off for good: each stage is judged anew, without any probe."""
    planner, session = alone("code")
    begins_at = None
    for num_rounds in range(200):
        planner.on_step(StepShape(num_sequences=1, num_tokens=1, num_context_tokens=100), 1.0, 1, 1)
        planner.on_round(session, Ended(0, 0, None, 1, 1.5))
        planner.probing.begins()  # never due
        planner.refresh()
        if begins_at is None and planner.lookahead(session):
            begins_at = num_rounds + 1
    assert begins_at in (8, 16, 32, 64, 128)


@pytest.mark.parametrize(("num_drafted", "draft_ms"), [(8, 4.0), (2, 1.0), (8, 1.0)])
def test_rounds_are_as_late_as_by_what_was_drafted_in_them(num_drafted: int, draft_ms: float):
    """Whatever was planned: a draft that ends early, or a part that is not verified, makes its round no quicker one."""
    planner, session = alone()
    seeded(planner)
    planner.exposure.hop_ms = 1.0
    forecast = planned(planner, session)
    step_ms = 10.5 + 0.5 * num_drafted
    for _ in range(60):
        planner.on_step(StepShape(num_sequences=1, num_tokens=1 + num_drafted), step_ms, 1, 1 + num_drafted)
        planner.on_round(session, Ended(0, num_drafted, forecast, 1, step_ms + draft_ms + 1.0 + 5.0, draft_ms))
    late = planner.experience.round_times.drafted_lateness(1)
    assert late.after(16.0) == pytest.approx(21.0, abs=1.0), "five ms that no part of a round accounts for"


@pytest.mark.parametrize(("share", "is_drafted"), [(1.0, True), (0.5, False)])
def test_drafting_has_to_keep_what_it_promises(share: float, is_drafted: bool):
    """Plans with drafts promise more than those without, but not twice as much."""
    planner, session = alone("structured")
    steps = [StepShape(num_sequences=1, num_tokens=tokens, num_context_tokens=256) for tokens in range(1, 18)]
    planner.costs.seed(StepTiming(shape=one, step_ms=10.0 + 4.0 * one.num_tokens) for one in steps)
    for _ in range(200):
        planner.experience.promises.observe(1, True, 1.0, share)
    session.lookahead = None
    assert planner.lacks_plan(session)
    planner.refresh()
    assert (planner.stats.cap > 0) == is_drafted


def test_who_does_not_draft_beside_one_that_was_told_to_answers_for_the_same_promises():
    """Its rounds wait for the other's drafts in any case: that such rounds keep half is no reason not to share them."""
    planner = Planner(SpeculationSettings())
    drafters: dict[str, DrafterAcceptance] = {}
    fields = {"drafters": drafters, "kind": "mtp", "num_positions": 16, "request_class": "structured"}
    open_one, told = Speculation(**fields), Speculation(**fields, requested=4)  # type: ignore[arg-type]
    planner.begins(1, open_one)
    planner.begins(2, told)
    for _ in range(400):
        planner.experience.promises.observe(2, True, 1.0, 0.5)
    assert planner.lacks_plan(open_one)
    planner.refresh()
    assert planner.stats.cap > 0


def test_a_wide_gap_is_probed_seldom():
    probing = Probing()
    probing.passed(100.0, 0)
    assert not probing.is_due(1.0, 0.5, 10.0, 48.0)
    probing.passed(2000.0, 0)
    assert probing.is_due(1.0, 0.5, 10.0, 48.0)
    probing.begins()
    probing.passed(100.0, 0)
    assert probing.is_due(1.0, 0.99, 3.0, 48.0)


def test_a_kind_is_fresh_when_the_plan_goes_over_to_it_and_the_other_is_not_tried_at_once():
    planner, session = alone("structured")
    steps = [StepShape(num_sequences=1, num_tokens=tokens, num_context_tokens=256) for tokens in range(1, 18)]
    planner.costs.seed(StepTiming(shape=one, step_ms=10.0 + 4.0 * one.num_tokens) for one in steps)
    for _ in range(200):  # whoever drafts breaks every promise
        planner.experience.promises.observe(1, True, 1.0, 0.1)
    planned(planner, session)
    assert planner.stats.cap == 0
    planner.probing.passed(500.0, 0)
    assert planner.probing.may_be_due
    assert not planner.probing.is_fresh
    for _ in range(400):
        planner.experience.promises.observe(1, True, 1.0, 1.0)
    planned(planner, session)
    assert planner.stats.cap > 0
    assert planner.probing.is_fresh
    assert not planner.probing.may_be_due
    planner.probing.passed(9.0, 0)
    planned(planner, session)
    assert not planner.probing.is_fresh, "the same again"


@pytest.mark.parametrize(("num_sessions", "promised", "begins"), [(1, 1.03, True), (2, 1.03, False), (2, 1.06, True)])
def test_drafting_together_has_to_promise_more_to_begin(num_sessions: int, promised: float, begins: bool):
    planner = Planner(SpeculationSettings())
    for number in range(num_sessions):
        planner.begins(number, Speculation(drafters={}, kind="mtp", num_positions=16))
    bare, drafted = Choice((0,), 0, 1.0, 1.0, 10.0), Choice((4,), 4, 0.5, promised, 20.0)
    assert (planner._better(bare, drafted, planner._cycle(8, 16))[0] is drafted) == begins


@pytest.mark.parametrize("num_sessions", [1, 2])
def test_sessions_that_share_steps_stay_for_a_while_with_what_they_have_gone_over_to(num_sessions: int):
    planner, session = alone("structured")
    for number in range(1, num_sessions):
        planner.begins(1 + number, Speculation(drafters=session.drafters, kind="mtp", num_positions=16))
    steps = [StepShape(num_sequences=1, num_tokens=tokens, num_context_tokens=256) for tokens in range(1, 18)]
    planner.costs.seed(StepTiming(shape=one, step_ms=10.0 + 4.0 * one.num_tokens) for one in steps)

    def go_over(kept: float) -> int:
        for _ in range(400 * num_sessions):
            planner.experience.promises.observe(num_sessions, True, 1.0, kept)
        planned(planner, session)
        return planner.stats.cap

    def drafts(promised: float) -> bool:
        planner.experience.promises = Promises()
        drafted = Choice((4,), 4, 0.5, promised, 20.0)
        return planner._better(Choice((0,), 0, 1.0, 1.0, 10.0), drafted, planner._cycle(8, 16))[0] is drafted

    def pass_cycles(count: int) -> None:
        for _ in range(count * num_sessions):
            planner.on_round(session, Ended(0, 0, None, num_sessions, 1.0))

    assert go_over(1.0) > 0
    assert [drafts(promised) for promised in (0.7, 0.9)] == [False, num_sessions > 1]
    pass_cycles(40)
    assert not drafts(0.9)
    assert go_over(0.1) == 0
    assert [drafts(promised) for promised in (1.2, 1.3)] == [num_sessions == 1, True]
    pass_cycles(40)
    assert drafts(1.2)


def test_a_kind_is_tried_by_all_only_in_a_company_that_lasts():
    probing = Probing()
    for company_now in (0, 1, 2, 3, 2, 1) * 4:
        probing.passed(2.0, company_now)
        assert not probing.is_untried(0.0), "sessions come and go"
    probing.passed(4.0, 1)
    assert probing.is_untried(0.0)
    assert not probing.is_untried(48.0)


def test_a_probe_ends_with_the_company_that_it_was_for():
    planner, session = alone("structured")
    session.probe = Probe(0, 6, planned(planner, session))
    assert planner.lookahead(session) == 0
    for number in range(2, 9):
        planner.begins(number, Speculation(drafters=session.drafters, kind="mtp", num_positions=16))
    planner.lookahead(session)
    assert session.probe is None
    assert not session.is_probe


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
        planner.on_round(session, Ended(lookahead, lookahead, forecast, 1, cost_ms[lookahead > 0]))
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
