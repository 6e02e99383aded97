"""A drafter whose tokens stop to hold is left, tried again, and left for longer."""

from __future__ import annotations

from deployments.policy.canary import Canary


def rounds(canary: Canary, count: int, *, held_every: int) -> None:
    for index in range(count):
        canary.observe(held_every > 0 and index % held_every == 0)


def test_a_poor_drafter_is_kept_and_a_broken_one_is_left():
    poor, broken = Canary(), Canary()
    rounds(poor, 200, held_every=8)
    rounds(broken, 60, held_every=0)
    assert not poor.trips(0.0)
    assert broken.trips(0.0)
    assert broken.is_bypassed(4.9)
    assert not broken.is_bypassed(5.1)


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
        spans.append(next(s for s in range(1000) if not canary.is_bypassed(s)))
    assert spans == [5, 10, 20]
    rounds(canary, 60, held_every=2)
    rounds(canary, 200, held_every=0)
    assert canary.trips(0.0)
    assert not canary.is_bypassed(5.0)


def test_a_few_rounds_say_nothing():
    canary = Canary()
    rounds(canary, 12, held_every=0)
    assert not canary.trips(0.0)
