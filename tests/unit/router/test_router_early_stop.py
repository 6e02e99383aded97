"""Drafts that may end early: who is told when, and what of them is sent to be verified."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from deployments.messages import Costs, Introduce, Open, Proposal, ProposalItem, SamplingParams, VerifyItem
from deployments.policy.speculation import Probe
from deployments.router.session import Session
from deployments.timing import StepShape, StepTiming
from tests.support.early_stops import early_stop
from tests.support.fake_link import FakeLink
from tests.support.router_rig import Rig
from tests.unit.router.test_router_lookaheads import LONG

REJECTING = SamplingParams(temperature=1.0, acceptance="rejection", seed=5)
SURE_THEN_NOT = (0.999, 0.999, 0.05, 0.05)
"""Confidences of a proposal of which half is worth its place."""
TOKENS = (20, 21, 22, 23)


def drafting_rig(**settings: object) -> Rig:
    """Steps of 20 ms and 3 more for each token: drafting pays, and only what is likely to hold is worth its place."""
    rig = Rig(policy="adaptive", **settings)
    shapes = [StepShape(num_sequences=n, num_tokens=n * (1 + k)) for n in (1, 2, 4, 8) for k in (0, 1, 2, 4, 8)]
    timings = tuple(StepTiming(shape=shape, step_ms=20.0 + 3.0 * shape.num_tokens) for shape in shapes)
    rig.router.received(rig.verifiers[0], Costs(timings=timings, max_step_tokens=512))
    return rig


def propose(
    rig: Rig, asked: Open | VerifyItem, context_len: int, confidences: Sequence[float] = SURE_THEN_NOT
) -> VerifyItem:
    """The drafter has drafted four tokens; what is asked to be verified of them."""
    item = ProposalItem(
        session=asked.session, epoch=asked.epoch, context_len=context_len, tokens=TOKENS, confidences=tuple(confidences)
    )
    rig.now_s += 0.002
    rig.router.received(rig.drafters[0], Proposal(items=(item,), draft_ms=2.0, longest=4, num_tokens=4, lookahead=8))
    return rig.asked()


def begun(rig: Rig, **request: object) -> tuple[Session, Open]:
    """A session whose first draft is under way."""
    rig.generate(request_class="structured", **{**LONG, **request})
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    (session,) = rig.router._sessions.values()
    return session, opened


def proposed(**request: object) -> tuple[Rig, Session]:
    """A session whose first draft has come, as one that might have ended early."""
    rig = drafting_rig()
    session, opened = begun(rig, **request)
    propose(rig, opened, 4)
    session.early_stop = early_stop()
    rig.router._rounds.lookaheads.plan_of(session).place_cost = 0.5
    return rig, session


def offered(rig: Rig, session: Session) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return rig.router._rounds.lookaheads.offered(session)


def test_tokens_that_are_not_worth_their_place_are_left_out_and_the_rest_is_wanted_whole():
    rig, session = proposed()
    assert offered(rig, session) == (TOKENS[:2], ())


def test_nothing_is_left_out_of_what_is_worth_its_place():
    rig, session = proposed()
    session.confidences = (0.999,) * 4
    assert offered(rig, session) == (TOKENS, ())


def test_all_of_it_may_not_be_worth_its_place():
    rig, session = proposed()
    session.confidences = (0.05,) * 4
    assert offered(rig, session) == ((), ())


def test_what_a_request_has_told_is_verified_whole():
    rig, session = proposed(num_speculative_tokens=4)
    assert offered(rig, session) == (TOKENS, ())


def test_a_probe_is_verified_whole():
    rig, session = proposed()
    session.is_probe = True
    assert offered(rig, session) == (TOKENS, ())


def test_a_draft_that_was_to_be_whole_goes_with_how_likely_each_token_holds():
    rig, session = proposed()
    session.early_stop = None
    tokens, survival_percent = offered(rig, session)
    assert tokens == TOKENS
    assert list(survival_percent) == sorted(survival_percent, reverse=True)
    assert survival_percent[1] > 90
    assert survival_percent[2] < 50


def test_a_draft_without_confidences_goes_by_its_positions():
    """Looked up in the text, or drawn to be rejected: nothing may depend on how likely its tokens were."""
    rig, session = proposed()
    session.confidences = ()
    tokens, survival_percent = offered(rig, session)
    assert tokens == TOKENS
    assert len(survival_percent) == 4
    assert list(survival_percent) == sorted(survival_percent, reverse=True)
    assert min(survival_percent) > 40


def test_nothing_is_offered_of_no_proposal():
    rig, session = proposed()
    session.proposal = ()
    assert offered(rig, session) == ((), ())


def test_mtp_drafters_are_told_when_to_end():
    rig = drafting_rig()
    _, opened = begun(rig)
    assert opened.lookahead > 0
    assert opened.early_stop is not None
    asked = propose(rig, opened, 4, (0.999,) * 4)
    assert asked.lookahead > 0
    assert asked.early_stop is not None


def test_a_go_ahead_for_no_draft_says_nothing_of_when_to_end():
    """Whatever was said of the draft that is verified with it."""
    rig = drafting_rig()
    session, opened = begun(rig)
    rig.router._rounds.lookaheads.plan_of(session).lookahead = 0
    asked = propose(rig, opened, 4, (0.999,) * 4)
    assert (asked.lookahead, asked.early_stop) == (0, None)


@pytest.mark.parametrize("request_changes", [{"params": REJECTING}, {"num_speculative_tokens": 4}])
def test_drafts_that_are_told_or_drawn_to_be_rejected_have_no_end_but_their_lookahead(
    request_changes: dict[str, object],
):
    rig = drafting_rig()
    _, opened = begun(rig, **request_changes)
    assert opened.lookahead > 0
    assert opened.early_stop is None
    asked = propose(rig, opened, 4, ())
    assert asked.lookahead > 0
    assert asked.early_stop is None


def test_a_greedy_request_is_not_drawn_to_be_rejected():
    rig = drafting_rig()
    _, opened = begun(rig, params=msgspec.structs.replace(REJECTING, temperature=0.0))
    assert opened.early_stop is not None


def test_draft_models_are_asked_for_whole_drafts():
    rig = drafting_rig(num_drafters=0, drafter="draft_model")
    rig.drafters.append(FakeLink("drafter-0", "drafter"))
    rig.router.link_opened(rig.drafters[0])
    rig.router.received(rig.drafters[0], Introduce(kind="draft_model"))
    session, opened = begun(rig)
    assert opened.early_stop is None
    assert propose(rig, opened, 4).early_stop is None
    assert session.asked_lookahead > 0


def test_a_draft_that_ended_early_counts_by_what_was_asked_for():
    rig = drafting_rig()
    session, opened = begun(rig)
    asked = propose(rig, opened, 4, (0.999,) * 4)
    (verifier,) = rig.router._peers.verifiers.values()
    item = rig.answer(asked, 4, 24)
    found = rig.router._rounds.lookaheads.observe(verifier, session, item, 1.0)
    assert found.num_asked == opened.lookahead > 4
    session.early_stop = None
    assert rig.router._rounds.lookaheads.observe(verifier, session, item, 1.0).num_asked == 0


def test_a_draft_is_asked_for_no_more_than_there_is_room_for():
    rig = drafting_rig()
    session, opened = begun(rig, max_context_tokens=10)
    asked = propose(rig, opened, 4, (0.999,) * 4)
    (verifier,) = rig.router._peers.verifiers.values()
    found = rig.router._rounds.lookaheads.observe(verifier, session, rig.answer(asked, 4, 24), 1.0)
    assert found.num_asked == 5, "one of the six places is the verifier's own"


def test_where_a_drafter_has_ended_early_drafts_may_go_beyond_the_plan():
    rig = drafting_rig()
    session, opened = begun(rig)
    plan = rig.router._rounds.lookaheads.plan_of(session)
    assert opened.lookahead == plan.lookahead
    asked = propose(rig, opened, 4, (0.999,) * 4)
    for context_len in (9, 14):  # what a step has taught is taken in when the next is on its way
        rig.now_s += 0.03
        rig.verdict(asked, 4, 24)
        planned = plan.lookahead
        asked = propose(rig, asked, context_len, (0.999,) * 4)
    assert planned is not None
    assert asked.lookahead == planned + 1


def test_the_very_first_draft_that_might_have_ended_early_is_offered_as_such():
    """It is the record that went out with its own go-ahead that counts, not that of the one before or after."""
    rig = drafting_rig()
    _, opened = begun(rig)
    assert opened.early_stop is not None
    asked = propose(rig, opened, 4)
    assert asked.survival_percent == ()
    assert asked.tokens in (TOKENS[:2], TOKENS[:3])


@pytest.mark.parametrize("params", [SamplingParams(), REJECTING])
def test_it_is_the_proposal_of_a_probe_that_is_verified_whole(params: SamplingParams):
    rig = drafting_rig()
    session, opened = begun(rig, params=params)
    confidences = SURE_THEN_NOT if params == SamplingParams() else ()
    rig.router._rounds.lookaheads.plan_of(session).probe = Probe(4, 1, None)
    first = propose(rig, opened, 4, confidences)
    rig.now_s += 0.03
    rig.verdict(first, 0, 99)
    probe = propose(rig, first, 5, confidences)
    assert (probe.tokens, probe.survival_percent) == (TOKENS, ())
    rig.now_s += 0.03
    rig.verdict(probe, 0, 99)
    after = propose(rig, probe, 6, confidences)
    assert (after.tokens, after.survival_percent) != (TOKENS, ()), "the round after it is as any other"


@pytest.mark.parametrize(("has_ended_early", "num_taught"), [(False, 1), (True, 0)])
def test_told_drafts_say_nothing_of_such_as_end_early_once_those_are_seen(has_ended_early: bool, num_taught: int):
    rig = drafting_rig()
    session, opened = begun(rig, num_speculative_tokens=4)
    acceptance = rig.router._rounds.lookaheads.plan_of(session).acceptance
    if has_ended_early:
        acceptance.observe(2, 2, confidences=(0.99, 0.99), num_asked=8)
    before = rig.router._rounds.lookaheads.num_rounds["mtp"]
    asked = propose(rig, opened, 4, ())
    rig.verdict(asked, 1, 24)
    propose(rig, asked, 6, ())
    assert rig.router._rounds.lookaheads.num_rounds["mtp"] - before == num_taught
