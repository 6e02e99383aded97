"""What the router asks of a drafter that works from tokens alone."""

from __future__ import annotations

from deployments.messages import Attach, Draft, DraftItem, Introduce, Need, Verify
from tests.support.fake_link import FakeLink
from tests.support.router_rig import PROMPT, Rig


def token_rig(**settings: object) -> Rig:
    rig = Rig(num_drafters=0, **{"drafter": "draft_model", **settings})
    rig.drafters.append(FakeLink("drafter-0", "drafter"))
    rig.router.link_opened(rig.drafters[0])
    rig.router.received(rig.drafters[0], Introduce(kind="draft_model"))
    return rig


def asked(rig: Rig) -> DraftItem:
    (item,) = rig.drafters[0].take_one(Draft).items
    return item


def test_it_reads_the_prompt_while_the_verifier_does_and_drafts_after_every_verdict():
    rig = token_rig()
    rig.generate()
    opened = rig.opened()
    assert (opened.drafter, opened.lookahead) == ("", 0), "the verifier feeds no drafter of tokens"
    assert rig.drafters[0].take_one(Attach).max_context_tokens == 40
    reading = asked(rig)
    assert (reading.start, reading.tokens, reading.lookahead) == (0, PROMPT, 0)
    rig.verdict(opened, 0, 11)
    question = asked(rig)
    assert (question.start, question.tokens, question.context_len, question.lookahead) == (3, (11,), 4, 4)
    assert not rig.verifiers[0].take(Verify), "the round waits for its proposal"
    rig.propose(opened, 4, (21, 22, 23, 24))
    item = rig.asked()
    assert (item.tokens, item.lookahead, item.drafter) == ((21, 22, 23, 24), 0, "")
    rig.verdict(item, 2, 33)
    assert asked(rig).tokens == (21, 22, 33)


def test_one_question_per_step_carries_sixteen_sessions():
    rig = token_rig()
    for index in range(16):
        rig.generate(f"r{index}")
    opens = [message for message in rig.verifiers[0].sent if type(message).__name__ == "Open"]
    rig.drafters[0].take(Draft)
    rig.verdicts([rig.answer(opened, 0, 11) for opened in opens])
    assert len(rig.drafters[0].take_one(Draft).items) == 16


def test_what_a_drafter_has_missed_is_sent_again_with_the_question():
    rig = token_rig()
    rig.generate()
    opened = rig.opened()
    rig.verdict(opened, 0, 11)
    rig.drafters[0].take(Draft)
    rig.router.received(rig.drafters[0], Need(session=opened.session, epoch=opened.epoch, have_len=1))
    item = asked(rig)
    assert (item.start, item.tokens, item.lookahead) == (1, (6, 7, 11), 4)


def test_an_empty_proposal_is_replaced_by_a_look_at_the_text():
    rig = token_rig()
    rig.generate(tokens=(5, 6, 7, 8, 9, 5, 6), num_prompt_tokens=7)
    opened = rig.opened()
    rig.verdict(opened, 0, 7)
    rig.propose(opened, 8, ())
    assert rig.asked().tokens == (8, 9, 5, 6)


def test_sessions_go_to_the_kind_that_their_request_names():
    rig = token_rig()
    mtp = FakeLink("drafter-mtp", "drafter")
    rig.router.link_opened(mtp)
    rig.router.received(mtp, Introduce(kind="mtp"))
    rig.generate("one")
    rig.generate("two", drafter="mtp")
    assert len(rig.drafters[0].take(Attach)) == 1
    assert len(mtp.take(Attach)) == 1
    first, second = rig.verifiers[0].sent
    assert (first.drafter, second.drafter) == ("", "drafter-mtp")
