"""Drafting from tokens: what is read, drafted and answered, with an engine that counts and links that remember."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.drafter.fake_token_engine import FakeTokenEngine
from deployments.drafter.token_service import TokenDrafterService, TokenDrafterSettings
from deployments.messages import (
    Attach,
    Detach,
    Draft,
    DraftItem,
    Introduce,
    Need,
    Proposal,
    ProposalItem,
    SamplingParams,
    Token,
)
from tests.support.fake_link import FakeLink

EPOCH = (1, 1)


def count_up(_params: SamplingParams, text: Sequence[Token]) -> Token:
    return (text[-1] + 1) % 50


class Rig:
    """A service with one router, and steps taken by hand."""

    def __init__(self, *, max_tokens: int = 1 << 30, **settings: object) -> None:
        self.engine = FakeTokenEngine(count_up, max_tokens=max_tokens)
        self.service = TokenDrafterService(
            self.engine,
            TokenDrafterSettings(**{"drafts_ahead": False, **settings}),  # type: ignore[arg-type]
        )
        self.router = FakeLink("router-0", "router")
        self.service.link_opened(self.router)

    def attach(self, session: int = 1, epoch: tuple[int, int] = EPOCH) -> None:
        attach = Attach(
            kind="draft_model", session=session, epoch=epoch, params=SamplingParams(), max_context_tokens=400
        )
        self.service.received(self.router, attach)

    def ask(self, start: int, tokens: Sequence[int], lookahead: int, session: int = 1) -> None:
        item = DraftItem(
            session=session,
            epoch=EPOCH,
            context_len=start + len(tokens),
            start=start,
            tokens=tuple(tokens),
            lookahead=lookahead,
        )
        self.service.received(self.router, Draft(items=(item,)))

    def settle(self) -> int:
        """Step until there is nothing left to do; returns how many steps that took."""
        num_steps = 0
        while self.service._step():
            num_steps += 1
            assert num_steps < 100
        return num_steps

    def proposals(self) -> list[ProposalItem]:
        return [item for message in self.router.take(Proposal) for item in message.items]


def test_it_says_what_it_is_and_drafts_after_the_committed_text():
    rig = Rig()
    assert rig.router.take_one(Introduce).kind == "draft_model"
    rig.attach()
    rig.ask(0, (3, 4, 5), 3)
    rig.settle()
    (item,) = rig.proposals()
    assert (item.context_len, item.tokens, len(item.confidences)) == (3, (6, 7, 8), 3)


def test_the_entries_of_accepted_tokens_are_not_read_again():
    rig = Rig()
    rig.attach()
    rig.ask(0, (3, 4, 5), 3)
    rig.settle()
    rig.ask(3, (6, 7, 20), 2)
    rig.settle()
    assert [item.tokens for item in rig.proposals()] == [(6, 7, 8), (21, 22)]
    (request,) = rig.engine.batches[-1]
    assert (request.start, request.tokens) == (5, (20,)), "6 and 7 were drafted, and are in the cache"


def test_a_rejected_guess_is_rolled_back():
    rig = Rig()
    rig.attach()
    rig.ask(0, (3, 4, 5), 4)
    rig.settle()
    rig.ask(3, (30,), 2)
    rig.settle()
    assert rig.proposals()[-1].tokens == (31, 32)
    (request,) = rig.engine.batches[-1]
    assert (request.start, request.tokens) == (3, (30,))


def test_a_prompt_is_read_in_slices_beside_others_and_whoever_asks_too_early_is_answered_at_once():
    rig = Rig(prompt_tokens=10)
    rig.attach(1)
    rig.attach(2)
    rig.ask(0, tuple(range(35)), 0, session=1)
    rig.ask(0, (7, 8), 2, session=2)
    assert rig.settle() == 4
    (item,) = rig.proposals()
    assert (item.session, item.tokens) == (2, (9, 10))
    assert max(len(r.tokens) for batch in rig.engine.batches for r in batch) <= 10
    rig.ask(35, (35,), 2, session=1)
    rig.settle()
    assert rig.proposals()[-1].tokens == (36, 37)
    rig.attach(3)
    rig.ask(0, tuple(range(40)), 2, session=3)
    rig.service._step()
    assert [(item.session, item.tokens) for item in rig.proposals()] == [(3, ())]


def test_all_sessions_that_ask_share_a_batch_and_a_message():
    rig = Rig()
    for session in range(8):
        rig.attach(session)
        rig.ask(0, (session, session + 1), 2, session=session)
    rig.settle()
    assert len(rig.engine.batches) == 1
    assert len(rig.router.take_one(Proposal).items) == 8


def test_a_gap_is_asked_for_and_a_stale_or_foreign_question_is_dropped():
    rig = Rig()
    rig.attach()
    rig.ask(0, (3, 4, 5), 0)
    rig.ask(9, (1,), 2)
    assert rig.router.take_one(Need).have_len == 3
    rig.ask(0, (3,), 2)
    rig.ask(3, (77,), 2)
    other = FakeLink("router-1", "router")
    rig.service.received(
        other, Draft(items=(DraftItem(session=1, epoch=EPOCH, context_len=4, start=3, tokens=(9,), lookahead=2),))
    )
    rig.settle()
    assert rig.proposals() == []


def test_a_session_without_room_gets_an_empty_answer_and_is_read_anew_later():
    rig = Rig(max_tokens=4)
    rig.attach()
    rig.ask(0, (3, 4, 5, 6), 2)
    rig.settle()
    assert rig.proposals()[-1].tokens == ()
    rig.engine._max_tokens = 100
    rig.ask(4, (7,), 2)
    rig.settle()
    assert rig.proposals()[-1].tokens == (8, 9)
    assert rig.engine.batches[-1][0].start == 0


def test_a_guess_that_was_drafted_ahead_is_answered_without_drafting():
    rig = Rig(drafts_ahead=True)
    rig.attach()
    rig.ask(0, (3, 4, 5), 2)
    rig.settle()
    num_batches = len(rig.engine.batches)
    rig.ask(3, (6, 7, 8), 2)
    rig.service._step()
    assert rig.proposals()[-1].tokens == (9, 10)
    assert len(rig.engine.batches) == num_batches
    assert (rig.service.stats.num_answers, rig.service.stats.num_answers_ahead) == (2, 1)
    assert 0 < rig.service.stats.hidden_s < rig.service.stats.batches_s
    rig.settle()
    rig.ask(6, (40,), 2)
    rig.settle()
    assert rig.proposals()[-1].tokens == (41, 42), "the guess was wrong: nothing of it is left"


def test_sessions_end_with_a_detach_or_with_their_router():
    rig = Rig()
    rig.attach(1)
    rig.attach(2)
    rig.service.received(rig.router, Detach(session=1, epoch=(1, 0)))
    assert rig.service.num_sessions == 2, "a detach of an earlier epoch is stale"
    rig.service.received(rig.router, Detach(session=1, epoch=EPOCH))
    assert set(rig.engine.params) == {2}
    rig.service.link_closed(rig.router)
    assert not rig.engine.params
    assert rig.service.num_sessions == 0
