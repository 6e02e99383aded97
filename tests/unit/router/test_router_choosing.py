"""A session whose drafter is the router's choice follows its text, and nothing that it commits depends on that."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from deployments.messages import Attach, Costs, Detach, Draft, Introduce, Verify, VerifyItem
from deployments.timing import StepShape, StepTiming
from tests.support.fake_link import FakeLink
from tests.support.router_rig import Rig

COPY = [*range(100, 140)] * 12
"""A text that prompt lookup knows from its second line on."""


def novel(length: int) -> list[int]:
    chance = random.Random(5)
    return [chance.randrange(1_000, 100_000) for _ in range(length)]


def auto_rig(*, mtp_holds: float = 0.5, **settings: object) -> Player:
    rig = Rig(policy="adaptive", drafter="auto", **settings)
    timings = tuple(
        StepTiming(shape=StepShape(num_sequences=n, num_tokens=n * (1 + k)), step_ms=20.0)
        for n in (1, 2, 4)
        for k in (0, 1, 2, 4, 8, 16)
    )
    rig.router.received(rig.verifiers[0], Costs(timings=timings, max_step_tokens=512))
    return Player(rig, mtp_holds)


class Player:
    """Verifier and MTP drafter of one session that writes a given text; counts who proposed what."""

    def __init__(self, rig: Rig, mtp_holds: float) -> None:
        self.rig = rig
        self.chance = random.Random(1)
        self.mtp_holds = mtp_holds
        self.drafted: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.fed: list[str] = []

    def play(self, text: Sequence[int], **request: object) -> list[int]:
        """Generate the whole text; returns what was committed."""
        rig = self.rig
        prompt = list(text[:60])
        rig.generate(tokens=tuple(prompt), num_prompt_tokens=60, max_context_tokens=len(text), **request)
        asked = rig.opened()
        done = 61
        rig.verdict(asked, 0, text[60])
        committed = [text[60]]
        while done < len(text):
            rig.now_s += 0.002
            self.fed.append(asked.drafter)
            if asked.lookahead:
                guess = [t if self.chance.random() < self.mtp_holds else 1 for t in text[done : done + asked.lookahead]]
                rig.propose(asked, done, tuple(guess))
            (verify,) = rig.verifiers[0].take(Verify)
            (item,) = verify.items
            assert isinstance(item, VerifyItem)
            held = 0
            while held < len(item.tokens) and done + held < len(text) - 1 and item.tokens[held] == text[done + held]:
                held += 1
            who = ("mtp" if asked.lookahead else "prompt_lookup") if item.tokens else "nobody"
            self.drafted[who] += 1
            if done > len(text) // 2:
                self.late[who] += 1
            asked = item
            rig.now_s += 0.020
            committed += text[done : done + held + 1]
            rig.verdict(item, held, text[done + held])
            done += held + 1
        return committed


def test_a_text_that_repeats_its_prompt_ends_on_prompt_lookup():
    player = auto_rig(mtp_holds=0.6)
    assert player.play(COPY) == COPY[60:]
    assert player.late["prompt_lookup"] > 4 * (player.late["mtp"] + player.late["nobody"])
    assert player.fed[-1] == ""


def test_a_new_text_stays_with_mtp():
    player = auto_rig(mtp_holds=0.8)
    text = novel(600)
    assert player.play(text) == text[60:]
    assert player.late["prompt_lookup"] == 0
    assert player.late["mtp"] > 20
    assert player.fed[0] == "drafter-0"


def test_a_text_that_stops_to_repeat_itself_goes_back_to_the_drafter_that_it_kept():
    player = auto_rig(mtp_holds=0.7)
    text = [*COPY, *novel(400)]
    assert player.play(text) == text[60:]
    drafter = player.rig.drafters[0]
    assert len(drafter.take(Attach)) == 1, "it stayed attached while the text was looked up"
    assert player.fed[-1] == "drafter-0"
    assert not drafter.take(Detach)[:-1]


def test_a_request_that_names_its_drafter_keeps_it():
    player = auto_rig(mtp_holds=0.5)
    player.play(COPY, drafter="mtp")
    assert set(player.fed) == {"drafter-0"}


def test_without_any_drafter_the_text_is_looked_up():
    player = auto_rig(num_drafters=0)
    assert player.play(COPY) == COPY[60:]
    assert player.drafted["prompt_lookup"] > 10


def test_a_lookahead_that_is_told_is_kept_whoever_drafts():
    player = auto_rig(mtp_holds=0.6)
    player.play(COPY, num_speculative_tokens=3)
    assert player.late["prompt_lookup"] > player.late["mtp"]
    player = auto_rig()
    player.play(COPY, num_speculative_tokens=0)
    assert set(player.drafted) == {"nobody"}
    assert not player.rig.drafters[0].take(Attach)


def test_a_drafter_that_leaves_in_the_middle_is_not_missed():
    player = auto_rig(mtp_holds=0.9)
    rig = player.rig
    rig.generate(tokens=tuple(COPY[:60]), num_prompt_tokens=60, max_context_tokens=400)
    asked = rig.opened()
    assert asked.drafter == "drafter-0"
    rig.router.link_closed(rig.drafters[0])
    rig.verdict(asked, 0, COPY[60], has_go_ahead=False)
    for done in range(61, 80):
        (verify,) = rig.verifiers[0].take(Verify)
        assert verify.items[0].drafter == ""
        rig.verdict(verify.items[0], 0, COPY[done])


def test_of_two_kinds_the_one_that_holds_gets_the_session():
    player = auto_rig(mtp_holds=0.0)
    rig = player.rig
    other = FakeLink("drafter-9", "drafter")
    rig.router.link_opened(other)
    rig.router.received(other, Introduce(kind="draft_model"))
    rig.generate(tokens=(5, 6, 7, 8), num_prompt_tokens=4, max_context_tokens=4_000)
    asked, done = rig.opened(), 4
    rig.verdict(asked, 0, 11)
    done += 1
    for round_number in range(160):
        rig.now_s += 0.002
        if asked.lookahead:
            rig.propose(asked, done, (1,) * asked.lookahead)
        elif drafts := other.take(Draft):
            item = drafts[-1].items[-1]
            if item.lookahead:
                rig.drafters.append(other)
                rig.propose(item, done, tuple(range(2_000 + done, 2_000 + done + item.lookahead)), drafter=-1)
                rig.drafters.pop()
        verifies = rig.verifiers[0].take(Verify)
        if not verifies:
            rig.tick(1.1)
            verifies = rig.verifiers[0].take(Verify)
        (asked,) = verifies[-1].items
        rig.now_s += 0.02
        held = len(asked.tokens) if asked.tokens and asked.tokens[0] >= 2_000 else 0
        rig.verdict(asked, held, 10_000 + round_number)
        done += held + 1
    assert other.take(Attach)
    assert done > 400
