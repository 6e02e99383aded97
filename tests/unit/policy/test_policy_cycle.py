"""What one more token or step costs a cycle, and what a cycle of one session takes whose draft may end early."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from deployments.policy.cycle import Cycle
from deployments.policy.round_times import Lateness

STEP_MS, TOKEN_MS = 3.0, 0.25
MOST = 16


def cycle(*, verified_ms: float = 0.5, half_ms: float | None = None, hop_ms: float = 1.0, **changes: object) -> Cycle:
    """All sessions in one step of 10 ms and so much for each drafted token; half of them in one of `half_ms`."""
    draft_ms = STEP_MS * np.arange(9.0)
    fields = {
        "whole_ms": 10.0 + verified_ms * np.arange(MOST + 1.0),
        "half_ms": np.empty(0) if half_ms is None else half_ms + verified_ms * np.arange(MOST // 2 + 1.0),
        "away_ms": hop_ms + draft_ms,
        "draft_ms": draft_ms,
        "step_ms": STEP_MS,
        "token_ms": TOKEN_MS,
    }
    return Cycle(**{**fields, **changes})


def test_a_further_token_costs_its_draft_and_its_place_in_the_step():
    more = cycle().marginal_ms(4, 8)
    assert more == pytest.approx((TOKEN_MS, 0.5, STEP_MS))


def test_all_of_it_is_as_much_dearer_as_rounds_are_seen_to_be():
    more = cycle(bare=Lateness(7.0, 9.0), drafted=Lateness(2.0, 1.5)).marginal_ms(4, 8)
    assert more == pytest.approx((1.5 * TOKEN_MS, 1.5 * 0.5, 1.5 * STEP_MS))


def test_the_price_of_a_token_is_that_of_many_on_a_staircase():
    """Eight tokens to a stair of 4 ms: neither nothing nor a whole stair."""
    whole_ms = 10.0 + 4.0 * -(-np.arange(MOST + 1) // 8)
    for num_tokens in (7, 8, 9, 10):
        more = cycle(whole_ms=whole_ms).marginal_ms(4, num_tokens)
        assert more.drafted == TOKEN_MS
        assert 0.25 <= more.verified <= 1.0


def test_where_no_more_can_be_drafted_the_price_is_that_of_the_last_ones():
    assert cycle().marginal_ms(8, MOST) == pytest.approx((TOKEN_MS, 0.5, STEP_MS))
    assert cycle().marginal_ms(1, 1) == pytest.approx((TOKEN_MS, 0.5, STEP_MS))
    assert cycle().marginal_ms(1, 0) == pytest.approx((TOKEN_MS, 0.5, STEP_MS))


def test_nothing_costs_less_than_nothing():
    """Longer steps that were seen to be quicker, as measured ones may be."""
    more = cycle(verified_ms=-0.5).marginal_ms(4, 8)
    assert more == pytest.approx((0.0, 0.0, STEP_MS))


def test_a_step_costs_half_of_it_where_two_groups_take_turns():
    """A group waits for its draft and its step, and in that time the other has both as well: two steps of drafts."""
    turns = cycle(half_ms=5.0, hop_ms=40.0)
    assert turns.times_ms[4, 8] == pytest.approx(5.0 + 0.5 * 4 + TOKEN_MS * 4 + 40.0 + STEP_MS * 4)
    assert turns.marginal_ms(4, 8).step == pytest.approx(0.5 * STEP_MS)
    assert dataclasses.replace(turns, half_ms=np.empty(0)).marginal_ms(4, 8).step == pytest.approx(STEP_MS)


def test_a_step_costs_all_of_it_where_both_groups_wait_for_the_drafter():
    draft_ms = 33.0 + STEP_MS * np.arange(9.0)
    busy = cycle(verified_ms=0.0, whole_ms=np.full(MOST + 1, 90.0), half_ms=30.0, draft_ms=draft_ms, away_ms=draft_ms)
    assert busy.times_ms[4, 8] == pytest.approx(2 * (33.0 + STEP_MS * 4 + TOKEN_MS * 4)), "one draft after the other"
    assert busy.marginal_ms(4, 8).step == pytest.approx(STEP_MS)


def test_a_step_costs_nothing_while_the_other_groups_step_hides_the_draft():
    hidden = cycle(whole_ms=np.full(MOST + 1, 200.0), half_ms=90.0)
    more = hidden.marginal_ms(4, 8)
    assert more.step == 0.0
    assert more.drafted + more.verified == pytest.approx(0.5), "a token's place in one of the two steps"


def test_a_step_that_is_hidden_in_part_costs_that_part():
    """Of the four steps more that the price is found over, two are hidden."""
    away_ms = np.full(9, 50.0 - TOKEN_MS * 4 - 2 * STEP_MS)
    whole_ms = np.full(MOST + 1, 120.0)
    partly = cycle(verified_ms=0.0, whole_ms=whole_ms, half_ms=50.0, away_ms=away_ms, draft_ms=np.zeros(9))
    assert partly.times_ms[4, 8] == 100.0
    assert partly.marginal_ms(4, 8).step == pytest.approx(STEP_MS * 2 / 4 / 2)


@pytest.mark.parametrize(
    ("half_ms", "draft_ms", "seen_ms"),
    [(None, 7.0, 10.0 + 3.0 + 1.0 + 7.0),
     (5.0, 20.0, 10.0 + 3.0 + 1.0 + 20.0),  # turns would be two drafts
     (10.0, 9.0, 10.0 + 3.0 + 1.0 + 9.0),  # and here two steps
     (4.0, 7.0, 2 * 7.0),
     (6.0, 5.0, 2 * (6.0 + 1.5)),
     (4.0, 6.9, 2 * 6.9)],
)  # fmt: skip
def test_a_cycle_that_was_seen_is_modelled_by_what_was_drafted_in_it(
    half_ms: float | None, draft_ms: float, seen_ms: float
):
    assert cycle(half_ms=half_ms).seen_ms(6, draft_ms) == pytest.approx(seen_ms)


def test_more_tokens_than_there_may_be_count_as_the_most():
    assert cycle().seen_ms(10 * MOST, 7.0) == cycle().seen_ms(MOST, 7.0)


def test_a_session_alone_whose_draft_does_not_end_early_takes_as_long_as_ever():
    one = cycle(drafted=Lateness(2.0, 1.1), bare=Lateness(factor=1.5))
    assert one.alone_ms([1.0] * 8) == pytest.approx(one.alone_ms())
    assert one.alone_ms() == pytest.approx([*one.times_ms.diagonal()[:9]])


def test_a_session_alone_takes_less_by_what_is_likely_not_to_be_drafted():
    one = cycle(drafted=Lateness(2.0, 1.1))
    whole, early = one.alone_ms(), one.alone_ms([1.0, 0.5, 0.5, *[0.0] * 5])
    saved = [before - after for before, after in zip(whole, early, strict=True)]
    num_fewer = (0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert saved == pytest.approx([1.1 * (0.5 + TOKEN_MS) * num for num in num_fewer])


def test_a_part_of_a_token_is_between_two_stairs():
    one = cycle(whole_ms=np.array([10.0, 10.0, 18.0, 18.0]), token_ms=0.0)
    assert one.alone_ms([1.0, 0.25, 0.0])[2] == pytest.approx(12.0 + 1.0 + 2 * STEP_MS)
