"""What a circumstance makes of a rate: assumed at first, then as it was seen."""

from __future__ import annotations

import pytest

from deployments.policy.evidence import Evidence, adjusted


def test_odds_are_those_assumed_until_something_is_seen():
    assert Evidence(0.45, doubt=24.0, usual=0.7).odds == pytest.approx(0.45)
    assert Evidence(1.0, doubt=4.0, usual=0.5).odds == pytest.approx(1.0)


def test_what_is_seen_wins_in_time():
    evidence = Evidence(0.45, doubt=24.0, usual=0.7)
    for _ in range(400):  # odds of 9, where 4 were expected
        evidence.count(9, 1, 8.0)
    assert evidence.odds == pytest.approx(9 / 4, rel=0.2)


def test_what_was_seen_long_ago_fades():
    evidence = Evidence(1.0, doubt=4.0, usual=0.5)
    for num_held in (0, 10):
        for _ in range(200):
            evidence.count(num_held, 10 - num_held, 5.0)
    assert evidence.odds > 10.0


def test_half_a_belief_counts_half():
    whole, half = (Evidence(1.0, doubt=8.0, usual=0.5) for _ in range(2))
    for _ in range(4):
        whole.count(4, 0, 2.0)
    for _ in range(8):
        half.count(4, 0, 2.0, weight=0.5)
    assert half.odds == pytest.approx(whole.odds, rel=0.01)


@pytest.mark.parametrize(("rate", "odds", "expected"), [(0.5, 1.0, 0.5), (0.8, 0.25, 0.5), (0.5, 9.0, 0.9)])
def test_a_rate_with_other_odds(rate: float, odds: float, expected: float):
    assert adjusted(rate, odds) == pytest.approx(expected)
