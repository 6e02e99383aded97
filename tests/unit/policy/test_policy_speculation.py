"""What of a draft is worth its place in the step."""

from __future__ import annotations

import pytest

from deployments.policy.speculation import Speculation


@pytest.mark.parametrize(
    ("place_cost", "num_worth"), [(0.0, 4), (0.1, 4), (0.11, 3), (0.3, 3), (0.31, 2), (0.9, 1), (0.91, 0)]
)
def test_last_tokens_that_are_less_likely_than_their_place_costs_are_not_worth_it(place_cost: float, num_worth: int):
    session = Speculation(drafters={}, kind="mtp", num_positions=16, place_cost=place_cost)
    assert session.num_worth([0.9, 0.8, 0.3, 0.1]) == num_worth


def test_nothing_of_no_draft_is_worth_anything():
    assert Speculation(drafters={}, kind="mtp", num_positions=16, place_cost=0.5).num_worth([]) == 0
