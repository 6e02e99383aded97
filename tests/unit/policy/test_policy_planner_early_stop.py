"""Whose drafts a planner lets end early, what it says of that, and what it learns of rounds once they do."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.messages import PolicyName, Priority
from deployments.policy.acceptance import DrafterAcceptance
from deployments.policy.costs import DraftCosts
from deployments.policy.cycle import Cycle
from deployments.policy.early_stop import is_usable
from deployments.policy.experience import Ended
from deployments.policy.planner import Planner
from deployments.policy.speculation import Forecast, Probe, Speculation, SpeculationSettings
from deployments.timing import StepShape, StepTiming

MOST = 12
STEP_MS, TOKEN_MS, VERIFIED_MS = 1.0, 0.1, 0.5
"""What a further step, a further drafted token and a further verified one cost."""


def planner() -> Planner:
    """One that knows its costs: steps of 20 ms, in which tokens are cheap."""
    found = Planner(SpeculationSettings(max_speculative_tokens=MOST), can_split=False)
    sizes = [(num, num + more) for num in (1, 2, 4, 8, 16, 32) for more in (0, 1, 4, 16, 64)]
    shapes = [StepShape(num_sequences=num, num_tokens=tokens) for num, tokens in sizes]
    found.costs.seed(StepTiming(shape=one, step_ms=20.0 + VERIFIED_MS * one.num_tokens) for one in shapes)
    found.draft_costs["drafter"] = DraftCosts()
    for num_tokens in (1, 2, 4, 8) * 8:
        for num_sessions in (1, 2, 8):
            draft_ms = 0.5 + STEP_MS * num_tokens + TOKEN_MS * num_tokens * num_sessions
            found.draft_costs["drafter"].observe(num_tokens, num_tokens * num_sessions, draft_ms)
    return found


def session(
    drafters: dict[str, DrafterAcceptance],
    *,
    kind: str = "mtp",
    may_end_early: bool = True,
    requested: int | None = None,
    policy: PolicyName | None = None,
    priority: Priority = "interactive",
    num_positions: int = 16,
) -> Speculation:
    return Speculation(
        drafters=drafters, kind=kind, num_positions=num_positions, request_class="structured", requested=requested,
        policy=policy, priority=priority, may_end_early=may_end_early, drafter="drafter",
    )  # fmt: skip


def begun(*sessions: Speculation) -> Planner:
    """A planner that has made its first plan, for these sessions; each has been given its first lookahead."""
    found = planner()
    for number, one in enumerate(sessions):
        found.begins(number, one)
        found.lacks_plan(one)
    found.refresh()
    for one in sessions:
        found.lookahead(one)
    return found


def end_early(one: Speculation) -> None:
    """A draft of its drafter ends after two tokens of the eight that it was asked for."""
    one.acceptance.observe(2, 2, confidences=(0.9, 0.4), num_asked=8)
    assert one.acceptance.has_ended_early


def test_a_draft_may_end_where_a_further_token_is_not_worth_its_time():
    one = session({})
    plan = begun(one)
    stop = one.early_stop
    assert stop is not None
    assert is_usable(stop)
    tokens_per_ms = plan.stats.rate
    assert stop.value == 1.0
    assert stop.token_cost == pytest.approx(tokens_per_ms * (TOKEN_MS + VERIFIED_MS), rel=0.15)
    assert stop.step_cost == pytest.approx(tokens_per_ms * STEP_MS, rel=0.15)
    assert one.place_cost == pytest.approx(tokens_per_ms * VERIFIED_MS, rel=0.15)
    calibration = one.acceptance.calibration
    assert (stop.chances, stop.nexts) == (calibration.as_bytes(), calibration.nexts(MOST))


def test_what_confidences_are_worth_is_sent_as_it_is_learnt():
    one = session({})
    plan = begun(one)
    before = one.early_stop
    for _ in range(50):
        one.acceptance.observe(0, 1, confidences=(1.0,))
    plan.lookahead(one)
    assert before is not None
    assert one.early_stop is not None
    assert one.early_stop.chances[-1] < before.chances[-1] / 2
    assert one.early_stop.nexts[0] < before.nexts[0] / 2
    assert one.early_stop.nexts[1:] == before.nexts[1:]


def test_where_drafts_are_seen_to_end_early_they_may_go_one_token_beyond_the_plan():
    drafters: dict[str, DrafterAcceptance] = {}
    one, short = session(drafters), session(drafters, num_positions=3)
    plan = begun(one, short)
    searched = plan.lookahead(one)
    assert 3 <= searched < MOST, "until then as many as the search says"
    end_early(one)
    assert [plan.lookahead(each) for each in (one, short)] == [searched + 1, 3]
    assert one.lookahead == searched, "the plan itself is what it was"
    assert one.early_stop is not None


def test_where_nothing_is_drafted_nothing_ends_early():
    one = session({})
    plan = begun(one)
    end_early(one)
    one.lookahead = 0
    assert plan.lookahead(one) == 0
    assert one.early_stop is None


@pytest.mark.parametrize(("tried", "asked"), [(0, 0), (3, 4), (MOST, MOST)])
def test_a_probe_asks_for_no_draft_or_for_one_that_may_end_early(tried: int, asked: int):
    one = session({})
    plan = begun(one)
    end_early(one)
    one.probe = Probe(tried, 2, None)
    assert plan.lookahead(one) == asked
    assert (one.early_stop is not None) == (asked > 0)
    assert one.is_probe


@pytest.mark.parametrize(("requested", "policy"), [(4, None), (None, "constant"), (None, "heuristic")])
def test_a_draft_whose_lookahead_is_told_is_drafted_whole(requested: int | None, policy: PolicyName | None):
    drafters: dict[str, DrafterAcceptance] = {}
    told, other = session(drafters, requested=requested, policy=policy), session(drafters)
    plan = begun(told, other)
    end_early(other)
    told.early_stop = other.early_stop  # of a time when it was open
    assert told.early_stop is not None
    assert plan.lookahead(told) == 4
    assert told.early_stop is None
    plan.lookahead(other)
    assert other.early_stop is not None, "whoever is beside it"


@pytest.mark.parametrize(("kind", "may_end_early"), [("mtp", False), ("draft_model", True), ("prompt_lookup", True)])
def test_others_drafts_do_not_end_early(kind: str, may_end_early: bool):
    one = session({}, kind=kind, may_end_early=may_end_early)
    plan = begun(one)
    asked = plan.lookahead(one)
    assert asked > 0
    assert one.early_stop is None
    end_early(one)
    assert plan.lookahead(one) == asked
    assert one.early_stop is None


def test_a_session_that_gets_another_kind_of_drafter_is_asked_for_whole_drafts():
    one = session({})
    plan = begun(one)
    end_early(one)
    one.kind = "draft_model"
    plan.lookahead(one)
    assert one.early_stop is None


@pytest.mark.parametrize(("num_sessions", "may_end_early"), [(16, True), (17, False)])
def test_drafts_end_early_of_sixteen_sessions_at_most(num_sessions: int, may_end_early: bool):
    drafters: dict[str, DrafterAcceptance] = {}
    sessions = [session(drafters) for _ in range(num_sessions)]
    plan = begun(*sessions)
    end_early(sessions[0])
    asked = [plan.lookahead(one) for one in sessions]
    assert all(one > 0 for one in asked)
    assert [one.early_stop is not None for one in sessions] == [may_end_early] * num_sessions
    beyond = {one - (session.lookahead or 0) for one, session in zip(asked, sessions, strict=True)}
    assert beyond == {1 if may_end_early else 0}


def test_drafts_end_early_again_when_the_seventeenth_session_has_gone():
    drafters: dict[str, DrafterAcceptance] = {}
    sessions = [session(drafters) for _ in range(17)]
    plan = begun(*sessions)
    del plan.sessions[16]
    plan.lookahead(sessions[0])
    assert sessions[0].early_stop is not None


def test_a_batch_requests_token_counts_less_and_has_to_be_likelier_for_its_place():
    drafters: dict[str, DrafterAcceptance] = {}
    interactive, batch = session(drafters), session(drafters, priority="batch")
    plan = begun(interactive, batch)
    for one in (interactive, batch):
        one.lookahead = 3
        plan.lookahead(one)
    first, second = interactive.early_stop, batch.early_stop
    assert first is not None
    assert second is not None
    assert (first.value, second.value) == (1.0, 0.4)
    assert (first.token_cost, first.step_cost) == (second.token_cost, second.step_cost), "they take the same time"
    assert batch.place_cost == pytest.approx(interactive.place_cost / 0.4)
    assert interactive.place_cost > 0.0


def drafted_cycles(one: Speculation, *, num_looked_at: int = 4, num_rounds: int = 6) -> tuple[float, float]:
    """How many drafted and bare cycles such rounds of a session alone have shown."""
    plan = begun(one)
    forecast = Forecast(num_sessions=1, is_drafted=True, cycle=Cycle(
        whole_ms=np.full(17, 20.0), half_ms=np.empty(0), away_ms=np.full(17, 5.0), draft_ms=np.full(17, 5.0),
        step_ms=0.0, token_ms=0.0,
    )) if num_looked_at else None  # fmt: skip
    for _ in range(1 + num_rounds):
        plan.on_round(one, Ended(num_looked_at, num_looked_at, forecast, 1, 40.0))
    return plan.experience.round_times.num_cycles(1, True), plan.experience.round_times.num_cycles(1, False)


@pytest.mark.parametrize("has_ended_early", [False, True])
@pytest.mark.parametrize(
    ("requested", "kind", "may_end_early", "is_apart"),
    [
        (4, "mtp", True, True),
        (4, "mtp", False, False),
        (4, "draft_model", True, False),
        (None, "mtp", True, False),
    ],
)
def test_told_rounds_tell_nothing_of_drafted_ones_once_drafts_end_early(
    requested: int | None, kind: str, may_end_early: bool, is_apart: bool, has_ended_early: bool
):
    one = session({}, requested=requested, kind=kind, may_end_early=may_end_early)
    if has_ended_early:
        end_early(one)
    num_drafted, _ = drafted_cycles(one)
    assert num_drafted == (0 if is_apart and has_ended_early else 6)


@pytest.mark.parametrize("has_ended_early", [False, True])
def test_rounds_that_are_told_not_to_draft_tell_what_bare_ones_take(has_ended_early: bool):
    one = session({}, requested=0)
    if has_ended_early:
        end_early(one)
    assert drafted_cycles(one, num_looked_at=0) == (0, 6)
