"""What the router decides from what it hears: lookaheads, survivals, and which drafters to leave alone."""

from __future__ import annotations

import pytest

from deployments.distributions import KEPT
from deployments.messages import Attach, Cancel, Costs, Detach, Open, Verify, VerifyItem
from deployments.policy.planner import Planner
from deployments.policy.speculation import Speculation, SpeculationSettings
from deployments.router.lookaheads import _planning_share
from deployments.router.session import Session
from deployments.timing import StepShape, StepTiming
from tests.support.router_rig import Rig

LONG = {"max_context_tokens": 4000}


def play(rig: Rig, rounds: int, *, accepted: int) -> list[tuple[int, int]]:
    """Answer so many rounds of one session; (drafted, lookahead asked for next) of each."""
    asked, context_len, played = rig.opened(), 4, []
    rig.verdict(asked, 0, 11)
    for _ in range(rounds):
        if asked.lookahead:
            rig.now_s += 0.002
            rig.propose(asked, context_len, tuple(range(20, 20 + asked.lookahead)))
        (verify,) = rig.verifiers[0].take(Verify)
        (asked,) = verify.items
        held = min(accepted, len(asked.tokens))
        played.append((len(asked.tokens), asked.lookahead))
        rig.now_s += 0.005
        rig.verdict(asked, held, 99)
        context_len += held + 1
    return played


def flat_steps(rig: Rig, step_ms: float) -> None:
    """The verifier says that tokens cost nothing and steps do."""
    timings = tuple(
        StepTiming(shape=StepShape(num_sequences=n, num_tokens=n * (1 + k)), step_ms=step_ms)
        for n in (1, 2, 4, 8)
        for k in (0, 1, 2, 4, 8)
    )
    rig.router.received(rig.verifiers[0], Costs(timings=timings, max_step_tokens=512))


def test_plans_come_soon_while_a_kind_of_rounds_has_just_begun():
    planner = Planner(SpeculationSettings())
    planner.begins(1, Speculation(drafters={}, kind="mtp", num_positions=16))
    planner.begins(2, Speculation(drafters={}, kind="mtp", num_positions=16))
    fresh = _planning_share(planner)
    planner.probing.passed(100.0, 1)
    assert fresh >= 5 * _planning_share(planner)


def test_a_text_that_is_guessed_well_is_looked_ahead_far():
    rig = Rig(policy="adaptive")
    flat_steps(rig, 30.0)
    rig.generate(**LONG)
    played = play(rig, 40, accepted=16)
    assert max(lookahead for _, lookahead in played[-10:]) >= 8


def test_a_text_that_is_never_guessed_is_not_drafted_for_but_now_and_then():
    rig = Rig(policy="adaptive")
    flat_steps(rig, 5.0)
    rig.generate(**LONG)
    played = play(rig, 400, accepted=0)
    late = [drafted for drafted, _ in played[100:]]
    assert 0 < sum(late) <= len(late) / 20


def test_an_explicit_lookahead_is_honoured_and_its_tokens_are_not_to_be_trimmed():
    rig = Rig(policy="adaptive")
    rig.generate(num_speculative_tokens=3, **LONG)
    opened = rig.opened()
    assert opened.lookahead == 3
    rig.verdict(opened, 0, 11)
    rig.propose(opened, 4, (21, 22, 23))
    assert rig.asked().survival_percent == ()


def test_an_open_one_tells_how_likely_each_token_holds():
    rig = Rig(policy="adaptive")
    flat_steps(rig, 30.0)
    rig.generate(request_class="structured", **LONG)
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    rig.propose(opened, 4, tuple(range(20, 20 + opened.lookahead)))
    survival = rig.asked().survival_percent
    assert len(survival) == opened.lookahead
    assert 100 >= survival[0] > 80
    assert list(survival) == sorted(survival, reverse=True)


def test_the_heuristic_is_that_of_transformers():
    rig = Rig(policy="heuristic")
    rig.generate(**LONG)
    played = play(rig, 8, accepted=5)
    # 4 is accepted whole, and so is no more than that.
    assert [lookahead for _, lookahead in played] == [4, 6, 8, 7, 6, 5, 4, 6]


@pytest.mark.parametrize(
    ("num_looked_at", "num_held", "next_token", "is_next_held"),
    [(2, 2, 22, True), (2, 2, 99, False), (0, 0, 20, True), (0, 0, 99, False), (2, 1, 99, None), (4, 4, 99, None)],
)
def test_the_first_token_that_was_cut_off_is_judged_by_the_targets_own(
    num_looked_at: int, num_held: int, next_token: int, is_next_held: bool | None
):
    rig = Rig(policy="adaptive")
    session, asked = with_proposal(rig, (20, 21, 22, 23))
    item = rig.answer(asked, num_held, next_token, num_drafted=num_looked_at)
    (verifier,) = rig.router._peers.verifiers.values()
    assert rig.router._rounds.lookaheads.observe(verifier, session, item, 1.0).is_next_held is is_next_held


def test_a_token_that_was_drawn_from_a_distribution_is_not_judged_by_the_targets_own():
    rig = Rig(policy="adaptive")
    session, asked = with_proposal(rig, (20, 21, 22, 23))
    session.distributions = (KEPT,) * 4
    item = rig.answer(asked, 2, 99, num_drafted=2)
    (verifier,) = rig.router._peers.verifiers.values()
    assert rig.router._rounds.lookaheads.observe(verifier, session, item, 1.0).is_next_held is None


def with_proposal(rig: Rig, tokens: tuple[int, ...]) -> tuple[Session, VerifyItem]:
    """A session whose proposal waits for its verdict."""
    rig.generate(num_speculative_tokens=len(tokens), **LONG)
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    rig.propose(opened, 4, tokens)
    (session,) = rig.router._sessions.values()
    return session, rig.asked()


def miss_two_answers(rig: Rig) -> None:
    """Nothing holds of what the first drafter drafts for one answer and then for another, which goes on."""
    rig.generate("first", **LONG)
    play(rig, 60, accepted=0)
    rig.tick(0.1)
    assert not rig.drafters[0].take(Detach), "one answer says nothing"
    rig.router.received(rig.ingress, Cancel(request="first"))
    rig.drafters[0].take(Detach)
    rig.verifiers[0].take(Verify)
    rig.generate("second", **LONG)
    play(rig, 60, accepted=0)


def test_a_drafter_of_which_nothing_holds_is_left_for_another():
    rig = Rig(num_drafters=2)
    miss_two_answers(rig)
    assert not rig.drafters[1].take(Attach)
    rig.tick(0.1)
    assert rig.drafters[0].take(Detach)
    assert rig.drafters[1].take(Attach)
    assert [session.num_missed for session in rig.router._sessions.values()] == [0], "the next one missed nothing yet"


def test_the_only_drafter_is_tried_again_after_a_while():
    rig = Rig(num_drafters=1)
    miss_two_answers(rig)
    rig.tick(0.1)
    rig.drafters[0].take(Attach)
    rig.verifiers[0].take(Verify)
    rig.generate("another", **LONG)
    assert rig.opened().drafter == ""
    rig.tick(6.0)
    rig.generate("yet another", **LONG)
    assert rig.opened().drafter == "drafter-0"


def test_what_a_step_taught_is_taken_in_when_the_next_is_on_its_way():
    """While a drafter drafts, the router leaves it the core that the two may share."""
    rig = Rig()
    rig.generate(**LONG)
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    (verifier,) = rig.router._peers.verifiers.values()
    assert verifier.planner.costs.num_observed == 0
    rig.propose(opened, 4, (20, 21, 22, 23))
    assert verifier.planner.costs.num_observed == 1
    rig.verdict(rig.asked(), 4, 24)
    assert verifier.planner.costs.num_observed == 1
    rig.tick(1.1)  # no proposal comes: the round goes ahead without one
    assert rig.asked().tokens == ()
    assert verifier.planner.costs.num_observed == 2


def test_where_nobody_drafts_it_is_taken_in_at_once():
    rig = Rig()
    rig.generate(num_speculative_tokens=0, **LONG)
    rig.verdict(rig.opened(), 0, 11)
    (verifier,) = rig.router._peers.verifiers.values()
    assert verifier.planner.costs.num_observed == 1


def test_no_lesson_is_lost_when_another_step_ends_before_the_next_is_asked_for():
    rig = Rig()
    for name in ("r0", "r1"):
        rig.generate(name, **LONG)
    first, second = rig.verifiers[0].take(Open)
    rig.verdict(first, 0, 11)
    rig.verdict(second, 0, 11)
    (verifier,) = rig.router._peers.verifiers.values()
    assert verifier.planner.costs.num_observed == 1
    rig.propose(first, 4, (20,))
    assert verifier.planner.costs.num_observed == 2
