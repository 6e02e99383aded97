"""Draft now or wait: for whom a drafter holds a batch back, and from what it learns that."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from deployments.policy.draft_waiting import DraftPolicy

LONG = 12
"""A lookahead whose draft takes 40 ms, three times as long as a step."""


def draft_ms(lookahead: int) -> float:
    return 4.0 + 3.0 * lookahead


class Rounds:
    """A drafter whose sessions have come back `step_ms` after each proposal, in one batch, for some rounds."""

    def __init__(
        self, step_ms: float = 13.0, lookahead: int = LONG, num_rounds: int = 12, length: int | None = None
    ) -> None:
        self.policy = DraftPolicy()
        self.step_ms = step_ms
        self.lookahead, self.length = lookahead, length or lookahead
        self.now_ms = 1000.0
        self.play(num_rounds)

    def play(self, num_rounds: int) -> None:
        """So many rounds of one session and of four."""
        for num_sessions in (1, 4) * num_rounds:
            self.drafted(range(num_sessions))
            self.now_ms += self.step_ms
            for session in range(num_sessions):
                self.policy.came_back(session, self.now_ms)

    def drafted(self, sessions: Iterable[int]) -> None:
        """These sessions' batch begins now and ends, after `length` of the tokens that they were asked for."""
        took_ms = draft_ms(self.length)
        self.now_ms += took_ms
        batch = list(sessions)
        num = len(batch)
        self.policy.left(batch, [self.lookahead] * num, [self.length] * num, took_ms, self.now_ms)

    def waits(self, num_ready: int, *, since_ms: float | None = None) -> float | None:
        """For how long so many others that are ready now would wait."""
        since_ms = self.now_ms if since_ms is None else since_ms
        until_ms = self.policy.wait_until_ms([self.lookahead] * num_ready, since_ms, self.now_ms)
        return None if until_ms is None else until_ms - self.now_ms


def test_where_drafts_are_longer_than_steps_a_group_waits_for_the_other():
    rounds = Rounds()
    rounds.drafted(range(4))
    waited_ms = rounds.waits(4)
    assert waited_ms is not None
    assert waited_ms >= 13.0


def test_where_steps_are_longer_than_drafts_turns_go_on():
    rounds = Rounds(step_ms=60.0)
    rounds.drafted(range(4))
    assert rounds.waits(4) is None


def test_many_do_not_wait_for_one_and_the_one_waits_for_them():
    rounds = Rounds()
    rounds.drafted([0])
    assert rounds.waits(8) is None
    rounds = Rounds()
    rounds.drafted(range(8))
    assert rounds.waits(1) is not None


@pytest.mark.parametrize("is_told", [True, False])
def test_nobody_waits_for_sessions_that_do_not_come_back(is_told: bool):
    rounds = Rounds()
    rounds.drafted(range(4))
    if is_told:
        for session in range(4):
            rounds.policy.forget(session)
    else:
        rounds.now_ms += 30.0
    assert rounds.waits(2) is None


@pytest.mark.parametrize(("num_ready", "is_waiting"), [(2, True), (3, False)])
def test_a_group_of_half_the_size_joins_the_larger_one_where_others_would_take_turns(num_ready: int, is_waiting: bool):
    rounds = Rounds(step_ms=38.0)
    rounds.drafted(range(4))
    assert (rounds.waits(num_ready) is not None) == is_waiting


def test_it_waits_for_as_long_as_the_common_draft_takes():
    """Its own draft would be a short one."""
    rounds = Rounds(step_ms=25.0)
    rounds.drafted(range(4))
    until_ms = rounds.policy.wait_until_ms([1], rounds.now_ms, rounds.now_ms)
    assert until_ms is not None
    assert draft_ms(1) < until_ms - rounds.now_ms <= draft_ms(LONG) + 0.5
    assert rounds.policy.wait_until_ms([1], rounds.now_ms - draft_ms(LONG), rounds.now_ms) is None


def test_nobody_waits_longer_than_a_draft_of_its_own_takes():
    rounds = Rounds(step_ms=25.0)
    rounds.drafted(range(4))
    waited_ms = rounds.waits(3, since_ms=rounds.now_ms - 10.0)
    assert waited_ms is not None
    assert waited_ms <= draft_ms(LONG) - 10.0 + 0.5
    assert rounds.waits(3, since_ms=rounds.now_ms - draft_ms(LONG)) is None


def test_those_who_came_back_while_others_were_drafted_for_tell_nothing_of_a_step():
    rounds = Rounds()
    for _ in range(40):  # in turns, and nothing is read during a batch
        for group, other in ((range(4), range(4, 8)), (range(4, 8), range(4))):
            rounds.drafted(group)
            for session in other:
                rounds.policy.came_back(session, rounds.now_ms)
    rounds.drafted(range(4))
    assert rounds.waits(4) is not None


def test_waits_in_vain_end_by_themselves():
    rounds = Rounds()
    num_waits = 0
    for _ in range(40):  # steps take as long as two drafts by now
        rounds.drafted(range(4))
        if (waited_ms := rounds.waits(4)) is not None:
            num_waits += 1
            rounds.now_ms += waited_ms
        rounds.drafted(range(4, 8))
        for session in range(4):
            rounds.policy.came_back(session, rounds.now_ms)
    assert 0 < num_waits < 20


@pytest.mark.parametrize(("length", "is_waiting"), [(LONG, True), (4, False)])
def test_a_batch_is_expected_to_take_what_is_drafted_of_its_lookahead(length: int, is_waiting: bool):
    """A draft of 12 takes 40 ms, one that was asked for as much and ends after 4 takes 16: nobody waits longer."""
    rounds = Rounds(num_rounds=60, length=length)
    rounds.drafted(range(4))
    assert (rounds.waits(2, since_ms=rounds.now_ms - 20.0) is not None) is is_waiting
    assert rounds.waits(2, since_ms=rounds.now_ms - draft_ms(length)) is None


def test_drafts_that_no_longer_end_early_are_seen_to_be_long_again():
    rounds = Rounds(num_rounds=60, length=4)
    rounds.length = LONG
    rounds.play(60)
    rounds.drafted(range(4))
    assert rounds.waits(2, since_ms=rounds.now_ms - 20.0) is not None


def test_who_is_asked_for_a_token_gets_one_however_short_others_drafts_are():
    rounds = Rounds(step_ms=5.0, lookahead=16, num_rounds=60, length=1)
    rounds.drafted(range(4))
    until_ms = rounds.policy.wait_until_ms([1, 1], rounds.now_ms, rounds.now_ms)
    assert until_ms is not None
    assert until_ms - rounds.now_ms == pytest.approx(draft_ms(1), rel=0.1)
