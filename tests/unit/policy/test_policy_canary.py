"""A drafter whose tokens stop to hold is left, tried again with one session, and left for longer."""

from __future__ import annotations

from deployments.policy.canary import Canaries, Canary


def rounds(canary: Canary, count: int, *, held_every: int, num_sessions: int = 32) -> None:
    """Rounds of so many sessions in turn."""
    missed = [0] * num_sessions
    for index in range(count):
        is_held = held_every > 0 and index % held_every == 0
        missed[index % num_sessions] = 0 if is_held else missed[index % num_sessions] + 1
        canary.observe(is_held, missed[index % num_sessions])


def broken_at(now_s: float) -> Canary:
    canary = Canary()
    rounds(canary, 60, held_every=0)
    assert canary.trips(now_s)
    return canary


def test_a_poor_drafter_is_kept_and_a_broken_one_is_left():
    poor = Canary()
    rounds(poor, 200, held_every=8)
    assert not poor.trips(0.0)
    broken = broken_at(0.0)
    assert not broken.admits(4.9, 0)
    assert broken.admits(5.1, 0)


def test_one_that_was_good_is_left_when_it_breaks():
    canary = Canary()
    rounds(canary, 200, held_every=1)
    assert not canary.trips(0.0)
    rounds(canary, 110, held_every=0)
    assert canary.trips(0.0)


def test_it_is_tried_again_later_and_later_until_it_is_well():
    canary = Canary()
    spans = []
    for _ in range(3):
        rounds(canary, 60, held_every=0)
        assert canary.trips(0.0)
        spans.append(next(s for s in range(1000) if canary.admits(s, 0)))
    assert spans == [5, 10, 20]
    rounds(canary, 60, held_every=2)
    rounds(canary, 200, held_every=0)
    assert canary.trips(0.0)
    assert canary.admits(5.0, 0)


def test_one_session_tries_it_for_all():
    canary = broken_at(0.0)
    assert canary.admits(6.0, 0)
    assert not canary.admits(6.0, 1)
    rounds(canary, 60, held_every=2)
    assert canary.admits(6.0, 9), "it is well"


def test_a_trial_needs_no_second_session():
    canary = broken_at(0.0)
    rounds(canary, 60, held_every=0, num_sessions=1)
    assert canary.trips(6.0)


def test_a_trial_of_which_nothing_is_heard_ends():
    canary = broken_at(0.0)
    assert not canary.admits(64.0, 1)
    assert canary.admits(66.0, 1)


def test_one_session_that_is_not_foreseen_says_nothing_and_two_do():
    canary = Canary()
    rounds(canary, 500, held_every=0, num_sessions=1)
    assert not canary.trips(0.0)
    rounds(canary, 500, held_every=0, num_sessions=1)
    assert canary.trips(0.0)


def test_a_few_rounds_say_nothing():
    canary = Canary()
    rounds(canary, 12, held_every=0)
    assert not canary.trips(0.0)


def test_what_fails_for_one_class_of_one_drafter_is_left_for_that_alone():
    canaries = Canaries()
    for index in range(100):
        canaries.observe("d0", "code", False, 1 + index // 10)
        canaries.observe("d0", "prose", index % 2 == 0, index % 2)
        canaries.observe("d1", "code", index % 2 == 0, index % 2)
    assert canaries.check(1.0) == [("d0", "code")]
    assert canaries.check(1.1) == []
    admitted = [(d, c) for d in ("d0", "d1") for c in ("code", "prose", "creative") if canaries.admits(d, c, 3)]
    assert admitted == [("d0", "prose"), ("d0", "creative"), ("d1", "code"), ("d1", "prose"), ("d1", "creative")]
    canaries.forget("d0")
    assert canaries.admits("d0", "code", 3), "a new replica of that name has a clean record"
