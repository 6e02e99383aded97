"""What the autoscaling policy makes of single situations, and of a load that comes and goes."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest

from autoscaling.fleet import Drafters, Fleet, Verifiers
from autoscaling.policy import Learnt, Rules, State, Wish, decide, trouble_of
from deployments.config_parts import AutoscalingConfig
from deployments.policy.signals import DrafterSignals, IngressSignals, VerifierSignals
from tests.support.plant import Plant, plant_of

RULES = Rules(scaling=AutoscalingConfig(enabled=True, max_verifiers=8), max_sessions=10)
IMPATIENT = Rules(
    scaling=AutoscalingConfig(max_verifiers=8, up_delay_s=0, down_delay_s=0, up_cooldown_s=0, down_cooldown_s=0),
    max_sessions=10,
)


def fleet_of(
    *verifiers: VerifierSignals, drafter: DrafterSignals | None = None, ingress: IngressSignals | None = None
) -> Fleet:
    drafters = {"drafter": Drafters(target=1, running=1, signals=(drafter,))} if drafter is not None else {}
    return Fleet(
        verifiers=Verifiers(target=len(verifiers), running=len(verifiers), signals=verifiers),
        drafters=drafters,
        ingresses=(ingress,) if ingress is not None else (),
    )


def needed(fleet: Fleet, rules: Rules = IMPATIENT, state: State | None = None) -> int:
    return decide(state or State(), fleet, rules, 100.0)[1].num_verifiers


@pytest.mark.parametrize(("sessions", "expected"), [(0, 1), (1, 1), (8, 1), (9, 2), (16, 2), (17, 3), (1000, 8)])
def test_sessions_need_room(sessions: int, expected: int) -> None:
    assert needed(fleet_of(VerifierSignals(sessions=sessions))) == expected


def test_sessions_that_wait_for_room_or_are_not_placed_yet_count() -> None:
    assert needed(fleet_of(VerifierSignals(sessions=8, waiting=8))) == 2
    assert needed(fleet_of(VerifierSignals(sessions=8), ingress=IngressSignals(requests=24))) == 3


def test_caches_need_room() -> None:
    assert needed(fleet_of(VerifierSignals(sessions=3, kv_usage=0.95))) == 2


@pytest.mark.parametrize(
    ("verifier", "ingress", "expected"),
    [
        (VerifierSignals(sessions=4, step_ms=10, token_share=0.95), None, "steps are full"),
        (VerifierSignals(sessions=4, step_ms=10, queue_ms=31), None, "sessions wait for steps"),
        (VerifierSignals(sessions=4, step_ms=10, queue_ms=19), None, ""),
        (VerifierSignals(sessions=4), IngressSignals(first_token_rate=2, late_first_token_rate=0.2), "first"),
        (VerifierSignals(sessions=4), IngressSignals(first_token_rate=2, late_first_token_rate=0.09), ""),
        (VerifierSignals(sessions=4), IngressSignals(answer_rate=2, late_answer_rate=0.2), "tokens are late"),
        (VerifierSignals(sessions=4), IngressSignals(token_ms=51), "tokens are late"),
        (VerifierSignals(sessions=4), IngressSignals(token_ms=49), ""),
        (VerifierSignals(), IngressSignals(first_token_rate=2, late_first_token_rate=2), ""),
    ],
)
def test_trouble(verifier: VerifierSignals, ingress: IngressSignals | None, expected: str) -> None:
    assert trouble_of(fleet_of(verifier, ingress=ingress), RULES).startswith(expected)
    assert bool(trouble_of(fleet_of(verifier, ingress=ingress), RULES)) == bool(expected)


def test_one_late_request_is_an_accident() -> None:
    rate = 1 / RULES.scaling.look_back_s
    late = IngressSignals(first_token_rate=rate, late_first_token_rate=rate)
    assert trouble_of(fleet_of(VerifierSignals(sessions=4), ingress=late), RULES) == ""


def test_late_tokens_are_the_drafters_to_cure_while_they_queue_and_can_grow() -> None:
    queueing = DrafterSignals(busy_share=0.5, batch_ms=10, queue_ms=5)
    verifier, late = VerifierSignals(sessions=4, step_ms=10), IngressSignals(token_ms=90)
    assert trouble_of(fleet_of(verifier, drafter=queueing, ingress=late), RULES) == ""
    at_most = Rules(scaling=AutoscalingConfig(max_drafters=1), max_sessions=10)
    assert trouble_of(fleet_of(verifier, drafter=queueing, ingress=late), at_most) == "tokens are late"


def test_lasting_trouble_teaches_how_many_sessions_are_too_many() -> None:
    fleet = fleet_of(VerifierSignals(sessions=6, step_ms=10), ingress=IngressSignals(token_ms=60))
    state, decision = decide(State(), fleet, RULES, 100.0)
    assert (decision.num_verifiers, state.too_full) == (1, None)
    state, decision = decide(state, fleet, RULES, 109.0)
    assert (decision.num_verifiers, state.too_full) == (1, None)
    state, decision = decide(state, fleet, RULES, 110.0)
    assert state.too_full == Learnt(pytest.approx(6 / 1.1), 110.0)
    assert decision.num_verifiers == 2


def test_nothing_is_learnt_while_replicas_start_or_right_after_a_change() -> None:
    late = IngressSignals(token_ms=60)
    fleet = fleet_of(VerifierSignals(sessions=6, step_ms=10), ingress=late)
    starting = msgspec.structs.replace(fleet, verifiers=msgspec.structs.replace(fleet.verifiers, target=2))
    state = State()
    for second in range(60):
        state, decision = decide(state, starting, RULES, float(second))
        assert (state.too_full, decision.num_verifiers) == (None, 2)
    state = State(verifiers=Wish(changed_s=0.0))
    for second in range(30):
        state, _ = decide(state, fleet, RULES, float(second))
    assert state.too_full is None


def test_what_was_learnt_is_forgotten() -> None:
    full = fleet_of(VerifierSignals(sessions=6), VerifierSignals(sessions=6))
    known = State(too_full=Learnt(3.0, 100.0))
    assert decide(known, full, IMPATIENT, 100.0 + 1799)[1].num_verifiers == 4
    state, decision = decide(known, full, IMPATIENT, 100.0 + 1801)
    assert (state.too_full, decision.num_verifiers) == (None, 2)


def test_drafters_grow_until_they_do_not_queue_and_stay_in_proportion() -> None:
    queueing = DrafterSignals(busy_share=0.5, batch_ms=12, queue_ms=3)
    verifiers = [VerifierSignals(sessions=8, step_ms=12)] * 3
    state, decision = decide(State(), fleet_of(*verifiers, drafter=queueing), IMPATIENT, 100.0)
    assert decision.num_drafters == {"drafter": 2}
    assert state.too_few == {"drafter": Learnt(1 / 3, 100.0)}
    # Twice the verifiers at once, for want of room: their drafters come with them.
    many = fleet_of(*[VerifierSignals(sessions=16, step_ms=12)] * 3, drafter=DrafterSignals())
    decision = decide(state, many, IMPATIENT, 101.0)[1]
    assert (decision.num_verifiers, decision.num_drafters) == (6, {"drafter": 3})


def test_a_queue_within_the_bound_is_left_alone() -> None:
    idle = DrafterSignals(busy_share=0.5, batch_ms=12, queue_ms=0.5)
    fleet = fleet_of(*[VerifierSignals(sessions=4, step_ms=12)] * 3, drafter=idle)
    assert decide(State(), fleet, IMPATIENT, 100.0)[1].num_drafters == {"drafter": 1}


def test_drafters_are_bounded_by_what_verifiers_can_use() -> None:
    queueing = DrafterSignals(busy_share=0.9, batch_ms=12, queue_ms=6)
    fleet = fleet_of(VerifierSignals(sessions=4, step_ms=12), drafter=queueing)
    state = State(too_few={"drafter": Learnt(5.0, 100.0)})
    assert decide(state, fleet, IMPATIENT, 100.0)[1].num_drafters == {"drafter": 2}


def test_idle_drafters_go_whatever_ratio_was_too_few() -> None:
    idle = fleet_of(VerifierSignals(), drafter=DrafterSignals())
    two = msgspec.structs.replace(idle.drafters["drafter"], target=2, running=2)
    idle = msgspec.structs.replace(idle, drafters={"drafter": two})
    state = State(too_few={"drafter": Learnt(1.0, 100.0)})
    assert decide(state, idle, IMPATIENT, 101.0)[1].num_drafters == {"drafter": 1}


def settled(sessions: float, seconds: int = 900, **fields: float) -> Plant:
    plant = plant_of(**fields)
    plant.run(sessions, seconds)
    return plant


def test_verifiers_meet_the_objective_and_no_more_of_them_than_that_takes() -> None:
    # 10 + sessions/verifiers ms per token: 50 ms hold 40 sessions each, and room (51) is not what binds.
    plant = settled(100.0)
    assert plant.token_ms(100.0, plant.verifiers) <= 50.0
    assert plant.verifiers == 3


def test_drafters_follow_verifiers() -> None:
    plant = settled(100.0)
    assert plant.drafters == plant.verifiers


def test_idle_is_the_floor() -> None:
    plant = settled(100.0)
    plant.run(0.0, 1500)
    assert (plant.verifiers, plant.drafters) == (1, 1)
    plant = settled(0.0, min_verifiers=2, min_drafters=3)
    assert (plant.verifiers, plant.drafters) == (2, 3)


def test_a_steady_load_ends_in_steady_counts() -> None:
    plant = settled(100.0, 2000)
    assert plant.changes(since_s=1000.0) == []


def test_replicas_are_taken_away_one_at_a_time() -> None:
    plant = settled(300.0)
    assert plant.verifiers == 8
    begin_s = plant.now_s
    plant.run(5.0, 1500)
    moves = [move for move in plant.changes(since_s=begin_s) if move[1]]
    assert all(move[1] == -1 for move in moves)
    assert min(later[0] - sooner[0] for sooner, later in pairwise(moves)) >= 60
