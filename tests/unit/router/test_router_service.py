"""The router's rounds, with links that only remember what was sent."""

from __future__ import annotations

import pytest

from deployments.messages import (
    Attach,
    Cancel,
    Close,
    Commit,
    Commits,
    Detach,
    Failure,
    Introduce,
    Open,
    Proposal,
    ProposalItem,
    Refusal,
    SetFlow,
    Verify,
)
from tests.support.fake_link import FakeLink
from tests.support.router_rig import PROMPT, Rig


def test_a_request_is_opened_with_its_tokens_and_a_go_ahead_for_the_drafter():
    rig = Rig()
    rig.generate()
    opened = rig.opened()
    attach = rig.drafters[0].take_one(Attach)
    assert opened.tokens == PROMPT
    assert (opened.drafter, opened.lookahead) == ("drafter-0", 4)
    assert (attach.session, attach.epoch) == (opened.session, opened.epoch)


def test_a_round_commits_accepted_tokens_and_the_verifiers_own():
    rig = Rig()
    rig.generate()
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    assert rig.commit() == Commit(request="r0", context_len=3, tokens=(11,), num_drafted=0, num_accepted=0)
    assert not rig.verifiers[0].take(Verify), "the round waits for its proposal"
    rig.propose(opened, 4, (21, 22, 23, 24))
    asked = rig.asked()
    assert (asked.context_len, asked.tokens, asked.lookahead) == (4, (21, 22, 23, 24), 4)
    rig.verdict(asked, 2, 33)
    assert rig.commit() == Commit(
        request="r0", context_len=4, tokens=(21, 22, 33), num_drafted=4, num_accepted=2, drafter="mtp"
    )


def test_a_proposal_that_overtakes_its_verdict_is_held():
    rig = Rig()
    rig.generate()
    opened = rig.opened()
    rig.propose(opened, 4, (21, 22))
    assert not rig.verifiers[0].take(Verify)
    rig.verdict(opened, 0, 11)
    assert rig.asked().tokens == (21, 22)


def test_stale_proposals_and_verdicts_are_dropped():
    rig = Rig()
    rig.generate()
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    rig.commit()
    rig.propose(opened, 3, (21,))
    rig.verdict(opened, 0, 99)
    item = ProposalItem(session=opened.session, epoch=(3, 999), context_len=4, tokens=(9,))
    rig.router.received(rig.drafters[0], Proposal(items=(item,), draft_ms=1.0))
    assert not rig.verifiers[0].take(Verify)
    assert not rig.ingress.take(Commits)


@pytest.mark.parametrize("num_accepted", [-1, 5])
def test_a_verdict_that_accepts_more_than_was_drafted_is_not_believed(num_accepted: int):
    rig = Rig()
    rig.generate()
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    rig.commit()
    rig.propose(opened, 4, (21, 22))
    rig.verdict(rig.asked(), num_accepted, 7)
    assert not rig.ingress.take(Commits)


def test_a_proposal_longer_than_asked_for_is_clipped():
    rig = Rig()
    rig.generate(num_speculative_tokens=2)
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    rig.propose(opened, 4, (1, 2, 3, 4, 5))
    assert rig.asked().tokens == (1, 2)


def test_the_output_never_outgrows_its_limit():
    rig = Rig()
    rig.generate(max_context_tokens=6)
    opened = rig.opened()
    assert opened.lookahead == 1, "after one committed token two places are left, one for the verifier's own"
    rig.verdict(opened, 0, 11)
    rig.commit()
    rig.propose(opened, 4, (1, 2, 3))
    asked = rig.asked()
    assert asked.tokens == (1,)
    rig.verdict(asked, 1, 9)
    commit = rig.commit()
    assert (commit.tokens, commit.finish_reason) == ((1, 9), "length")
    assert rig.verifiers[0].take(Close)
    assert rig.drafters[0].take(Detach)


def test_a_stop_token_among_the_accepted_ends_the_output_there():
    rig = Rig()
    rig.generate(stop_token_ids=(22,))
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    rig.commit()
    rig.propose(opened, 4, (21, 22, 23))
    rig.verdict(rig.asked(), 3, 9)
    commit = rig.commit()
    assert (commit.tokens, commit.num_accepted, commit.finish_reason) == ((21, 22), 2, "stop")


def test_one_message_per_step_and_peer_carries_sixteen_sessions():
    rig = Rig()
    for index in range(16):
        rig.generate(f"r{index}")
    opens = rig.verifiers[0].take(Open)
    rig.verdicts([rig.answer(opened, 0, 11) for opened in opens])
    assert len(rig.ingress.take_one(Commits).items) == 16
    items = tuple(
        ProposalItem(session=opened.session, epoch=opened.epoch, context_len=4, tokens=(1, 2)) for opened in opens
    )
    rig.router.received(rig.drafters[0], Proposal(items=items, draft_ms=2.0))
    assert len(rig.verifiers[0].take_one(Verify).items) == 16


def test_what_becomes_ready_while_three_steps_are_at_the_verifier_waits_and_goes_together():
    rig = Rig()
    for index in range(6):
        rig.generate(f"r{index}")
    opens = rig.verifiers[0].take(Open)
    rig.verdicts([rig.answer(opened, 0, 11) for opened in opens])
    for opened in opens:
        rig.propose(opened, 4, (1,))
    first, second, third = rig.verifiers[0].take(Verify)
    assert (len(first.items), len(second.items), len(third.items)) == (1, 1, 1)
    rig.verdicts([rig.answer(first.items[0], 1, 12)])
    assert len(rig.verifiers[0].take_one(Verify).items) == 3


def test_a_missing_proposal_costs_one_wait_and_then_the_drafter_is_asked_less_often():
    rig = Rig(proposal_timeout_s=0.5)
    rig.generate()
    rig.verdict(rig.opened(), 0, 11)
    rig.tick(0.4)
    assert not rig.verifiers[0].take(Verify)
    rig.tick(0.2)
    asked = rig.asked()
    assert (asked.tokens, asked.lookahead) == ((), 0)
    rig.verdict(asked, 0, 12)
    asked = rig.asked()
    assert asked.lookahead == 4, "after one skipped round the drafter has another chance"


def test_a_lost_drafter_costs_its_round_the_proposal_and_another_takes_over():
    rig = Rig(num_drafters=2)
    rig.generate()
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    rig.router.link_closed(rig.drafters[0])
    asked = rig.asked()
    attach = rig.drafters[1].take_one(Attach)
    assert (asked.tokens, asked.drafter, asked.lookahead) == ((), "drafter-1", 4)
    assert asked.epoch == attach.epoch > opened.epoch


def test_a_verdict_under_way_when_the_drafter_is_lost_still_counts():
    rig = Rig(num_drafters=2)
    rig.generate()
    opened = rig.opened()
    rig.router.link_closed(rig.drafters[0])
    rig.verdict(opened, 0, 11)
    assert rig.commit().tokens == (11,)
    assert rig.asked().drafter == "drafter-1", "its go-ahead went to a drafter that is gone"


def test_a_drafter_that_comes_later_is_used():
    rig = Rig(num_drafters=0)
    rig.generate()
    opened = rig.opened()
    assert (opened.drafter, opened.lookahead) == ("", 0)
    drafter = FakeLink("late", "drafter")
    rig.router.link_opened(drafter)
    rig.router.received(drafter, Introduce(kind="mtp"))
    rig.verdict(opened, 0, 11)
    asked = rig.asked()
    assert (asked.drafter, asked.lookahead) == ("late", 4)
    assert drafter.take_one(Attach).epoch == asked.epoch


def test_a_lost_verifier_moves_its_sessions_with_every_committed_token():
    rig = Rig(num_verifiers=2)
    rig.generate()
    opened = rig.opened(0)
    rig.verdict(opened, 0, 11)
    rig.propose(opened, 4, (21, 22))
    asked = rig.asked(0)
    rig.verdict(asked, 1, 31)
    rig.router.link_closed(rig.verifiers[0])
    again = rig.opened(1)
    assert again.tokens == (*PROMPT, 11, 21, 31)
    assert again.session == opened.session
    assert again.epoch > asked.epoch
    rig.verdicts([rig.answer(asked, 0, 77, context_len=6)], verifier=1)
    rig.ingress.take(Commits)
    rig.verdicts([rig.answer(again, 0, 41)], verifier=1)
    assert rig.commit().tokens == (41,), "only the verdict of the new placement counts"


def test_with_no_verifier_left_a_session_waits_for_one_and_fails_after_a_deadline():
    rig = Rig(placement_timeout_s=2.0)
    rig.generate("moves")
    rig.opened()
    rig.router.link_closed(rig.verifiers[0])
    rig.tick(1.0)
    late = FakeLink("verifier-late", "verifier")
    rig.router.link_opened(late)
    assert late.take_one(Open).tokens == PROMPT
    rig.router.link_closed(late)
    rig.tick(2.5)
    assert rig.ingress.take_one(Failure).code == "unavailable"
    assert rig.router.num_sessions == 0


def test_a_silent_verifier_is_asked_again_and_then_left():
    rig = Rig(num_verifiers=2, verify_timeout_s=1.0)
    rig.generate()
    opened = rig.opened(0)
    rig.tick(1.5)
    assert rig.opened(0) == opened
    rig.tick(1.5)
    assert rig.opened(1).tokens == PROMPT
    assert rig.verifiers[0].take(Close)


def test_a_cancelled_request_is_freed_at_once_everywhere():
    rig = Rig()
    rig.generate()
    opened = rig.opened()
    rig.router.received(rig.ingress, Cancel(request="r0"))
    assert rig.verifiers[0].take_one(Close).session == opened.session
    assert rig.drafters[0].take_one(Detach).session == opened.session
    rig.verdict(opened, 0, 11)
    assert not rig.ingress.take(Commits)


def test_the_sessions_of_a_lost_ingress_end():
    rig = Rig()
    rig.generate()
    rig.router.link_closed(rig.ingress)
    assert rig.router.num_sessions == 0
    assert rig.verifiers[0].take(Close)


def test_a_paused_session_is_left_out_until_it_resumes():
    rig = Rig()
    rig.generate()
    opened = rig.opened()
    rig.router.received(rig.ingress, SetFlow(request="r0", paused=True))
    rig.verdict(opened, 0, 11)
    rig.propose(opened, 4, (21,))
    assert not rig.verifiers[0].take(Verify)
    rig.router.received(rig.ingress, SetFlow(request="r0", paused=False))
    assert rig.asked().tokens == (21,)


def test_more_sessions_than_allowed_are_refused_and_disturb_nobody():
    rig = Rig(max_sessions=1)
    rig.generate("first")
    rig.generate("second")
    assert rig.ingress.take_one(Failure).code == "overloaded"
    rig.verdict(rig.opened(), 0, 11)
    assert rig.commit().request == "first"


def test_a_refusal_for_want_of_room_tries_the_other_verifier_and_then_fails():
    rig = Rig(num_verifiers=2)
    rig.generate()
    for index in range(2):
        opened = rig.opened(index)
        refusal = Refusal(session=opened.session, epoch=opened.epoch, reason="no_capacity", detail="full")
        rig.router.received(rig.verifiers[index], refusal)
    assert rig.ingress.take_one(Failure).code == "overloaded"


def test_a_verifier_that_has_forgotten_a_session_gets_it_again():
    rig = Rig()
    rig.generate()
    rig.verdict(rig.opened(), 0, 11)
    rig.tick(5.0)
    asked = rig.asked()
    refusal = Refusal(session=asked.session, epoch=asked.epoch, reason="unknown_session")
    rig.router.received(rig.verifiers[0], refusal)
    assert rig.opened().tokens == (*PROMPT, 11)


@pytest.mark.parametrize("changes", [{"drafter": "none"}, {"num_speculative_tokens": 0}])
def test_a_request_without_speculation_never_touches_a_drafter(changes: dict[str, object]):
    rig = Rig()
    rig.generate(**changes)
    opened = rig.opened()
    assert (opened.drafter, opened.lookahead) == ("", 0)
    rig.verdict(opened, 0, 11)
    assert rig.asked().tokens == ()
    assert not rig.drafters[0].sent
