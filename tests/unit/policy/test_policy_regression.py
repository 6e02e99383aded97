"""Least squares by relative errors, and of values that differ a lot."""

from __future__ import annotations

import pytest

from deployments.policy.regression import Regression


def test_a_mean_is_found_of_values_that_differ_tenfold():
    by_size, of_spread = (Regression((1.0,), (20.0,), memory=64) for _ in range(2))
    for value in (4.0, 40.0) * 100:
        by_size.observe((1.0,), value)
        of_spread.observe_spread((1.0,), value)
    assert by_size.predict((1.0,)) == pytest.approx(4.4, abs=0.5), "small ones count by their own size"
    assert of_spread.predict((1.0,)) == pytest.approx(22.0, rel=0.15)


def test_a_single_hiccup_does_not_move_a_mean():
    found = Regression((1.0,), (20.0,), memory=64)
    for value in (10.0,) * 100 + (1000.0,):
        found.observe_spread((1.0,), value)
    assert found.predict((1.0,)) == pytest.approx(10.0, rel=0.06)
