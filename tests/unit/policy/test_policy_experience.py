"""Which rounds tell a planner something: of their times, and of what comes of plans."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deployments.policy.acceptance import DrafterAcceptance
from deployments.policy.costs import StepCosts
from deployments.policy.cycle import Cycle
from deployments.policy.experience import Ended, Experience
from deployments.policy.speculation import Forecast, Speculation, SpeculationSettings
from deployments.timing import StepShape

NUM_SESSIONS = 2
HOP_MS, STEP_MS, TOKEN_MS = 1.0, 10.0, 0.5
FORECAST = Forecast(
    num_sessions=NUM_SESSIONS, is_drafted=True, rate=0.25,
    cycle=Cycle(
        whole_ms=STEP_MS + TOKEN_MS * np.arange(33), half_ms=np.empty(0), away_ms=HOP_MS + np.arange(17.0),
        draft_ms=np.arange(17.0), step_ms=1.0, token_ms=0.0,
    ),
)  # fmt: skip
BARE = dataclasses.replace(FORECAST, is_drafted=False)
SHAPE = StepShape(num_sequences=NUM_SESSIONS, num_tokens=NUM_SESSIONS * 5)


def session(**fields: object) -> Speculation:
    drafters: dict[str, DrafterAcceptance] = {}
    return Speculation(drafters=drafters, kind="mtp", num_positions=16, **fields)  # type: ignore[arg-type]


def after(
    one: Speculation,
    *ended: Ended,
    num_drafted: int = 4,
    shape: StepShape = SHAPE,
    costs: StepCosts | None = None,
) -> Experience:
    """Rounds of one of two sessions, each in a step that verified so many tokens of each."""
    found = Experience()
    for one_ended in ended:
        found.on_step(shape, NUM_SESSIONS, NUM_SESSIONS * (1 + num_drafted), NUM_SESSIONS, costs or StepCosts())
        found.on_round(one, one_ended, SpeculationSettings(), 100.0, lambda num_sessions, context: 10.0)
    return found


def drafted(round_ms: float, *, forecast: Forecast | None = FORECAST, num_sessions: int = NUM_SESSIONS) -> Ended:
    """Of four drafted tokens three held; the draft took five ms."""
    return Ended(3, 4, forecast, num_sessions, round_ms, 5.0)


def test_a_round_is_late_by_what_its_parts_do_not_account_for():
    modelled_ms = STEP_MS + TOKEN_MS * 8 + HOP_MS + 5.0
    found = after(session(), *[drafted(modelled_ms + 3.0)] * 80)
    assert found.round_times.drafted_lateness(NUM_SESSIONS).after(modelled_ms) == pytest.approx(23.0, abs=0.2)
    assert found.round_times.num_cycles(NUM_SESSIONS, True) == 79 / NUM_SESSIONS, "the first came from elsewhere"


def test_tokens_that_others_were_told_to_draft_are_in_any_step():
    told = dataclasses.replace(FORECAST, num_told=6)
    assert told.modelled_ms(4.0, 5.0) == FORECAST.modelled_ms(1.0, 5.0)
    assert told.modelled_ms(1.0, 5.0) == FORECAST.modelled_ms(0.0, 5.0), "never fewer than none"


@pytest.mark.parametrize(
    ("forecast", "num_sessions"), [(None, NUM_SESSIONS), (BARE, NUM_SESSIONS), (FORECAST, NUM_SESSIONS + 1)]
)
def test_drafts_that_no_plan_foresaw_tell_no_time(forecast: Forecast | None, num_sessions: int):
    found = after(session(), *[drafted(20.0, forecast=forecast, num_sessions=num_sessions)] * 9)
    assert found.round_times.num_cycles(num_sessions, True) == 0.0


def test_a_round_in_the_wake_of_one_without_a_draft_tells_no_time():
    assert after(session(num_rounds_off=1), *[drafted(20.0)] * 9).round_times.num_cycles(NUM_SESSIONS, True) == 0.0


def test_rounds_that_were_told_tell_what_drafts_take_while_none_is_seen_to_end_early():
    found = []
    for has_ended_early in (False, True):
        told = session(requested=4, may_end_early=True)
        if has_ended_early:
            told.acceptance.observe(1, 1, confidences=(0.9,), num_asked=8)
        found.append(after(told, *[drafted(20.0)] * 9).round_times.num_cycles(NUM_SESSIONS, True))
    assert found == [8 / NUM_SESSIONS, 0.0]


def test_prompts_are_taken_off_and_long_ones_make_a_round_tell_nothing():
    costs = StepCosts()
    for num_prompt_tokens in (0, 2, 4, 40) * 60:
        shape = StepShape(num_sequences=2, num_tokens=10 + num_prompt_tokens, num_prompt_tokens=num_prompt_tokens)
        costs.observe(shape, 10.0 + 0.5 * num_prompt_tokens)
    found = []
    for num_prompt_tokens in (0, 4, 40):
        shape = StepShape(num_sequences=2, num_tokens=10 + num_prompt_tokens, num_prompt_tokens=num_prompt_tokens)
        round_ms = 23.0 + 0.5 * num_prompt_tokens
        seen = after(session(), *[drafted(round_ms)] * 80, shape=shape, costs=costs).round_times
        found.append((seen.num_cycles(NUM_SESSIONS, True) > 0, seen.drafted_lateness(NUM_SESSIONS).after(20.0)))
    assert found == [
        (True, pytest.approx(23.0, abs=0.3)),
        (True, pytest.approx(23.0, abs=0.6)),
        (False, 20.0),
    ]


@pytest.mark.parametrize("num_prompt_tokens", [4, 40])
def test_prompts_are_no_plans_broken_promise(num_prompt_tokens: int):
    """Only the kind of rounds that runs would have to answer for them."""
    costs = StepCosts()
    for count in (0, 2, 4, 40) * 60:
        costs.observe(StepShape(num_sequences=2, num_tokens=10 + count, num_prompt_tokens=count), 10.0 + 0.5 * count)
    shape = StepShape(num_sequences=2, num_tokens=10 + num_prompt_tokens, num_prompt_tokens=num_prompt_tokens)
    ended = drafted(32.0 + 0.5 * num_prompt_tokens)
    found = after(session(), *[ended] * 400, shape=shape, costs=costs)
    assert found.promises.kept(NUM_SESSIONS, True) == pytest.approx(1.0, abs=0.02)
    assert after(session(), *[ended] * 400).promises.kept(NUM_SESSIONS, True) < 0.96, "without a prompt it is late"


def bare(
    count: int, *, forecast: Forecast | None = BARE, num_drafted: int = 0, one: Speculation | None = None
) -> float:
    """How many cycles without drafts such rounds show."""
    ended = [Ended(0, 0, forecast, NUM_SESSIONS, 12.0)] * count
    found = after(one or session(num_rounds_off=3), *ended, num_drafted=num_drafted)
    return found.round_times.num_cycles(NUM_SESSIONS, False)


def test_rounds_without_drafts_tell_their_time_once_all_are_of_that_kind():
    assert bare(9) > 0.0
    assert bare(9, num_drafted=1) == 0.0, "others still have some"
    assert bare(9, forecast=FORECAST) == 0.0, "a draft that came too late took its time"
    assert bare(9, one=session()) == 0.0, "the round before had one"


def test_plans_are_judged_by_what_comes_in_the_time_that_a_round_takes():
    kept = []
    for round_ms in (32.0, 64.0):  # a quarter of a token per ms for both, so four and eight tokens for each of them
        found = after(session(), *[drafted(round_ms)] * 400)
        kept.append(found.promises.kept(NUM_SESSIONS, True))
    assert kept == [1.0, pytest.approx(0.56, abs=0.02)]


def test_a_batch_requests_tokens_count_as_little_as_they_did_when_it_was_planned():
    found = after(session(priority="batch"), *[drafted(0.4 * 32.0)] * 400)
    assert found.promises.kept(NUM_SESSIONS, True) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "ended",
    [drafted(640.0, forecast=None), drafted(640.0, forecast=dataclasses.replace(FORECAST, rate=0.0)),
     drafted(640.0, num_sessions=NUM_SESSIONS + 1)],
)  # fmt: skip
def test_rounds_that_were_not_promised_anything_break_no_promise(ended: Ended):
    found = after(session(), *[ended] * 100)
    assert found.promises.kept(NUM_SESSIONS, True) == found.promises.kept(NUM_SESSIONS + 1, True) == 1.0


def test_what_requests_tell_is_no_plan():
    assert after(session(requested=4), *[drafted(640.0)] * 100).promises.kept(NUM_SESSIONS, True) == 1.0


def test_rounds_while_nobody_wants_a_drafter_tell_nothing():
    found = after(session(), *[Ended(0, 0, BARE, 0, 12.0)] * 9)
    assert found.round_times.num_cycles(1, False) == 0.0
