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

    def __init__(self, step_ms: float = 13.0, lookahead: int = LONG, num_rounds: int = 12) -> None:
        self.policy = DraftPolicy()
        self.lookahead = lookahead
        self.now_ms = 1000.0
        for num_sessions in (1, 4) * num_rounds:
            self.drafted(range(num_sessions))
            self.now_ms += step_ms
            for session in range(num_sessions):
                self.policy.came_back(session, self.now_ms)

    def drafted(self, sessions: Iterable[int]) -> None:
        """These sessions' batch begins now and ends."""
        took_ms = draft_ms(self.lookahead)
        self.now_ms += took_ms
        batch = list(sessions)
        asked = [self.lookahead] * len(batch)
        self.policy.left(batch, asked, asked, took_ms, self.now_ms)

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


def test_nobody_waits_longer_than_a_draft_of_its_own_takes():
    rounds = Rounds(step_ms=25.0)
    rounds.drafted(range(4))
    waited_ms = rounds.waits(2, since_ms=rounds.now_ms - 10.0)
    assert waited_ms is not None
    assert waited_ms <= draft_ms(LONG) - 10.0 + 0.5
    assert rounds.waits(2, since_ms=rounds.now_ms - draft_ms(LONG)) is None


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
