"""The bucket: full for a minute's tokens, steady, and owed to where more was used than foreseen."""

from __future__ import annotations

import pytest

from deployments.policy.token_bucket import filled, full, spent, wait_s


def test_it_holds_a_minute_and_fills_steadily() -> None:
    bucket = spent(full(600, 0.0), 600)
    assert filled(bucket, 600, 30.0).num_tokens == pytest.approx(300)
    assert filled(bucket, 600, 6000.0).num_tokens == 600
    assert filled(bucket, 600, -5.0).num_tokens == 0


def test_the_wait_is_as_long_as_what_is_missing_takes() -> None:
    bucket = spent(full(600, 0.0), 500)
    assert wait_s(bucket, 100, 600) == 0
    assert wait_s(bucket, 150, 600) == pytest.approx(5)
    assert filled(bucket, 600, 5.0).num_tokens == pytest.approx(150)


def test_more_than_it_holds_waits_for_a_full_one_and_leaves_a_debt() -> None:
    assert wait_s(full(600, 0.0), 10_000, 600) == 0
    owing = spent(full(600, 0.0), 10_000)
    assert wait_s(owing, 1, 600) == pytest.approx(940.1)


def test_a_lower_rate_takes_the_surplus_away() -> None:
    assert filled(full(600, 0.0), 60, 0.0).num_tokens == 60


def test_over_any_hour_no_more_is_spent_than_the_rate_allows() -> None:
    bucket, now_s, used = full(600, 0.0), 0.0, 0
    while now_s < 3600:
        bucket = filled(bucket, 600, now_s)
        pause = wait_s(bucket, 200, 600)
        if pause == 0:
            bucket, used = spent(bucket, 350), used + 350  # foreseen were 200
        now_s += max(pause, 0.01)
    assert 600 * 60 - 350 <= used <= 600 * 61 + 350
