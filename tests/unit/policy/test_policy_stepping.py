"""What a verifier expects of the sessions that are away: when each comes back, and with how many tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from deployments.policy.stepping import Ready, StepPolicy
from deployments.timing import StepShape, StepTiming

LOOKAHEAD = 16
NEWCOMER = Ready(session=99, context_len=0, num_drafted=0)
"""A session that has just come: nothing is known of it."""


def long_steps(num_tokens: int) -> float:
    """Reading the weights is all that a step costs: worth any wait for others."""
    return 60.0


def dear_beyond_eight(num_tokens: int) -> float:
    """Up to eight tokens cost nothing, each beyond them a lot."""
    return 60.0 + 20.0 * max(0, num_tokens - 8)


class Steps:
    """A verifier at which some sessions have had many rounds: away for so long, each by itself."""

    def __init__(self, step_ms: Callable[[int], float], away_ms: Mapping[int, float]) -> None:
        shapes = [StepShape(num_sequences=1, num_tokens=num_tokens) for num_tokens in range(1, 41)]
        self.policy = StepPolicy(StepTiming(shape=shape, step_ms=step_ms(shape.num_tokens)) for shape in shapes)
        self.away_ms = away_ms
        self.now_ms = 1000.0

    def rounds(self, count: int, num_drafted: int, lookahead: int = LOOKAHEAD) -> None:
        """All sessions leave together, asked for so many tokens, and come back with so many."""
        for _ in range(count):
            for session in self.away_ms:
                self.policy.left(session, lookahead, 4, self.now_ms)
            for session, away_ms in sorted(self.away_ms.items(), key=lambda one: one[1]):
                self.policy.came_back(session, num_drafted, self.now_ms + away_ms)
            self.now_ms += 200.0

    def rounds_that_a_step_hides(self, count: int, *, between_ms: tuple[float, float]) -> None:
        """All leave together and are seen again at the end of a step that began when none of them was back."""
        soonest_ms, latest_ms = between_ms
        for _ in range(count):
            for session in self.away_ms:
                self.policy.left(session, LOOKAHEAD, 4, self.now_ms)
            for session in self.away_ms:
                self.policy.came_back(session, LOOKAHEAD, self.now_ms + latest_ms, self.now_ms + soonest_ms)
            self.now_ms += 200.0

    def due_ms(self, *sessions: int) -> float:
        """How long after they left these are expected to be back, by one newcomer after the other."""
        now_ms = due_ms = self.now_ms
        for session in sessions:
            self.policy.left(session, LOOKAHEAD, 4, now_ms)
        while until_ms := self.policy.wait_until_ms([NEWCOMER], now_ms, now_ms):
            due_ms = until_ms if until_ms > now_ms + 1.0 else due_ms  # those who are late are given a ms at a time
            now_ms = until_ms
        return due_ms - self.now_ms

    def waits_for(self, *sessions: int, lookahead: int = LOOKAHEAD, gone_for_ms: float = 0.0) -> float | None:
        """How long a newcomer would wait for sessions that left so long ago; they stay away."""
        for session in sessions:
            self.policy.left(session, lookahead, 4, self.now_ms - gone_for_ms)
        until_ms = self.policy.wait_until_ms([NEWCOMER], self.now_ms, self.now_ms)
        for session in sessions:
            self.policy.came_back(session, 0, self.now_ms)
        return None if until_ms is None else until_ms - self.now_ms


def test_a_newcomer_waits_for_drafts_that_end_soon_and_steps_then():
    """Of drafts that take 4 or 40 ms: a step of 15 ms that begins now would hold up the short ones, later it holds up
    nobody, and neither do the long ones anybody.
    """
    steps = Steps(lambda num_tokens: 15.0, {1: 40.0, 2: 40.0})
    for is_short in (True, False, False, False) * 20:
        steps.away_ms = dict.fromkeys((1, 2), 4.0 if is_short else 40.0)
        steps.rounds(1, 2 if is_short else LOOKAHEAD)
    assert 4.0 <= steps.due_ms(1, 2) < 15.0


def test_sessions_that_are_always_back_three_times_as_soon_are_expected_so():
    for session, away_ms in ((0, 10.0), (1, 30.0)):
        steps = Steps(long_steps, {0: 10.0, **dict.fromkeys(range(1, 5), 30.0)})
        steps.rounds(40, LOOKAHEAD)
        assert steps.due_ms(session) == pytest.approx(away_ms, rel=0.05)


def test_of_sessions_that_left_together_the_slowest_is_waited_for():
    away_ms = {0: 10.0, **dict.fromkeys(range(1, 5), 30.0)}
    steps = Steps(long_steps, away_ms)
    steps.rounds(40, LOOKAHEAD)
    assert steps.due_ms(0, 1) == pytest.approx(30.0, rel=0.05)


@pytest.mark.parametrize(
    ("between_ms", "expected_ms"), [((1.0, 60.0), 10.0), ((2.0, 10.5), 10.0), ((20.0, 60.0), 20.0), ((1.0, 5.0), 5.0)]
)
def test_who_comes_back_while_a_step_runs_may_have_been_back_for_long(
    between_ms: tuple[float, float], expected_ms: float
):
    steps = Steps(long_steps, dict.fromkeys(range(4), 10.0))
    steps.rounds(40, LOOKAHEAD)
    steps.rounds_that_a_step_hides(400, between_ms=between_ms)
    assert steps.due_ms(0) == pytest.approx(expected_ms, abs=1.5), "what was known, as far as it can be"


def test_a_session_is_late_by_its_own_pace():
    found = []
    for session in (0, 1):
        steps = Steps(long_steps, {0: 10.0, **dict.fromkeys(range(1, 5), 30.0)})
        steps.rounds(40, LOOKAHEAD)
        found.append(steps.waits_for(session, gone_for_ms=25.0) is not None)
    assert found == [False, True], "nobody waits for the quick one any more"


def test_a_pace_follows_a_session_that_becomes_slower():
    steps = Steps(long_steps, {0: 10.0, **dict.fromkeys(range(1, 5), 30.0)})
    steps.rounds(40, LOOKAHEAD)
    steps.away_ms = dict.fromkeys(range(5), 30.0)
    steps.rounds(20, LOOKAHEAD)
    assert steps.due_ms(0) == pytest.approx(30.0, rel=0.1)


@pytest.mark.parametrize(("num_drafted", "is_waited_for"), [(4, True), (LOOKAHEAD, False)])
def test_a_session_is_expected_with_what_it_brings_of_its_lookahead(num_drafted: int, is_waited_for: bool):
    """Five tokens of its own and one of the newcomer's have room beside each other, seventeen and one have not."""
    steps = Steps(dear_beyond_eight, {1: 20.0})
    steps.rounds(20, num_drafted)
    assert (steps.waits_for(1) is not None) is is_waited_for


def test_a_session_that_nothing_is_known_of_is_expected_with_its_whole_lookahead():
    steps = Steps(dear_beyond_eight, {1: 20.0})
    assert steps.waits_for(2) is None
    assert Steps(dear_beyond_eight, {1: 20.0}).waits_for(2, lookahead=4) is not None


def test_rounds_without_a_draft_tell_nothing_of_how_much_drafts_bring():
    steps = Steps(dear_beyond_eight, {1: 20.0})
    steps.rounds(20, LOOKAHEAD)
    steps.rounds(20, 0)
    assert steps.waits_for(1) is None


@pytest.mark.parametrize(("worth", "is_waited_for"), [(3, True), (LOOKAHEAD, False)])
def test_tokens_that_find_no_place_in_steps_keep_nobody_from_waiting(worth: int, is_waited_for: bool):
    """Seventeen tokens come and cost much, but those of them that are not worth it are left out every time."""
    steps = Steps(dear_beyond_eight, {1: 20.0})
    steps.rounds(20, LOOKAHEAD)
    survival = (0.99,) * worth + (1e-4,) * (LOOKAHEAD - worth)
    for _ in range(20):
        whole = Ready(session=1, context_len=9, num_drafted=LOOKAHEAD, survival=() if worth == LOOKAHEAD else survival)
        assert steps.policy.trim([whole], 64, 0.0) == [worth]
    assert (steps.waits_for(1) is not None) is is_waited_for


@pytest.mark.parametrize(("others_away_ms", "is_waited_for"), [(21.0, False), (90.0, True)])
def test_who_waits_for_some_reckons_with_all_that_come_with_them(others_away_ms: float, is_waited_for: bool):
    """Four with a token each have room beside four newcomers; four more with eight each, out of the same draft, not."""

    def dear_beyond_sixteen(num_tokens: int) -> float:
        return 36.0 + 5.0 * max(0, num_tokens - 16)

    few, many = (1, 2, 3, 4), (5, 6, 7, 8)
    steps = Steps(dear_beyond_sixteen, dict.fromkeys(few, 20.0) | dict.fromkeys(many, others_away_ms))
    policy, lookahead = steps.policy, dict.fromkeys(few, 1) | dict.fromkeys(many, 8)
    for _ in range(40):
        for session in lookahead:
            policy.left(session, lookahead[session], 1, steps.now_ms)
        for session, away_ms in steps.away_ms.items():
            policy.came_back(session, lookahead[session], steps.now_ms + away_ms)
        steps.now_ms += 200.0
    for session in lookahead:
        policy.left(session, lookahead[session], 1, steps.now_ms)
    now_ms = steps.now_ms + 12.0
    until_ms = policy.wait_until_ms([Ready(90 + i, 0, 0) for i in range(4)], now_ms, now_ms)
    assert (until_ms is not None) is is_waited_for


def test_what_a_session_brings_is_forgotten_with_it():
    steps = Steps(dear_beyond_eight, {1: 20.0})
    steps.rounds(20, 4)
    steps.policy.forget(1)
    assert steps.waits_for(1) is None
