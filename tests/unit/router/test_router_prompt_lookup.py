"""When the router itself proposes, from the text."""

from __future__ import annotations

from deployments.messages import Open, Verify
from tests.support.router_rig import Rig

REPEATING = (5, 6, 7, 8, 9, 5, 6)


def test_prompt_lookup_proposes_what_followed_before_without_asking_anyone():
    rig = Rig()
    rig.generate(tokens=REPEATING, num_prompt_tokens=7, drafter="prompt_lookup")
    opened = rig.opened()
    assert (opened.drafter, opened.lookahead) == ("", 0)
    rig.verdict(opened, 0, 7)
    asked = rig.asked()
    assert (asked.tokens, asked.lookahead, asked.drafter) == ((8, 9, 5, 6), 0, "")
    rig.verdict(asked, 2, 50)
    assert rig.asked().tokens == (), "nothing like it stood in the text before"
    assert not rig.drafters[0].sent


def test_prompt_lookup_can_be_what_requests_get_that_leave_it_open():
    rig = Rig(drafter="prompt_lookup", num_speculative_tokens=2)
    rig.generate(tokens=REPEATING, num_prompt_tokens=7)
    rig.verdict(rig.opened(), 0, 7)
    assert rig.asked().tokens == (8, 9)
    assert not rig.drafters[0].sent


def test_prompt_lookup_stands_in_while_a_shadow_fills_and_never_for_a_request_without_speculation():
    rig = Rig()
    rig.generate("mtp", tokens=REPEATING, num_prompt_tokens=7)
    rig.generate("none", tokens=REPEATING, num_prompt_tokens=7, drafter="none")
    rig.generate("zero", tokens=REPEATING, num_prompt_tokens=7, num_speculative_tokens=0)
    mtp, *plain = rig.verifiers[0].take(Open)
    assert mtp.lookahead == 4
    rig.verdict(mtp, 0, 7, has_go_ahead=False)
    asked = rig.asked()
    assert (asked.tokens, asked.lookahead) == ((8, 9, 5, 6), 4)
    for opened in plain:
        rig.verdict(opened, 0, 7)
        (item,) = rig.verifiers[0].take(Verify)[0].items if rig.verifiers[0].sent else (None,)
        assert item is None or item.tokens == ()


def test_a_lookup_proposal_leaves_room_for_the_verifiers_own_token():
    rig = Rig()
    rig.generate(tokens=REPEATING, num_prompt_tokens=7, max_context_tokens=10, drafter="prompt_lookup")
    rig.verdict(rig.opened(), 0, 7)
    assert rig.asked().tokens == (8,)
