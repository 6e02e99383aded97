"""Who of a batch drafts another token: told ones all they were told, the others while it is worth what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from deployments.messages import EarlyStop
from deployments.policy.confidence import NUM_BINS
from deployments.policy.early_stop import Drafting, is_usable
from tests.support.early_stops import early_stop

ALL_THE_SAME = bytes([51] * NUM_BINS)
"""A token holds with a chance of 0.2, however sure its drafter is."""
SURE, UNSURE = 1.0, 0.0
SURE_ALONE = bytes([51] * (NUM_BINS - 1) + [255])


def lengths(
    lookaheads: Sequence[int], early_stops: Sequence[EarlyStop | None], confidences: Sequence[Sequence[float]]
) -> list[int]:
    """How many tokens each row gets, given its confidences one by one; the last is that of all further ones."""
    drafting = Drafting(lookaheads, early_stops)
    step = 0
    while drafting.rows:
        before = list(drafting.rows)
        drafting.drafted([confidences[row][min(step, len(confidences[row]) - 1)] for row in before])
        assert set(drafting.rows) <= set(before), "a row that has ended stays ended"
        step += 1
    return drafting.lengths


def test_rows_that_are_told_go_to_their_lookahead():
    drafting = Drafting([4, 2, 1, 0], [None] * 4)
    assert drafting.rows == [0, 1, 2]
    seen = []
    while drafting.rows:
        seen.append(list(drafting.rows))
        drafting.drafted([UNSURE] * len(drafting.rows))
    assert seen == [[0, 1, 2], [0, 1], [0], [0]]
    assert drafting.lengths == [4, 2, 1, 0]


@pytest.mark.parametrize(("token_cost", "expected"), [(0.41, 1), (0.4, 1), (0.39, 2), (0.081, 2), (0.079, 3), (0.0, 6)])
def test_a_row_ends_when_what_is_in_prospect_falls_to_the_cost_of_a_token(token_cost: float, expected: int):
    """A further token counts 2 if all before it hold, and each of them does with a chance of 0.2."""
    stop = early_stop(value=2.0, token_cost=token_cost, chances=ALL_THE_SAME)
    assert lengths([6], [stop], [[UNSURE]]) == [expected]
    assert lengths([6, 6], [stop, None], [[UNSURE]] * 2) == [expected, 6]


def test_a_row_goes_on_while_its_drafter_is_sure():
    stop = early_stop(token_cost=0.5, chances=SURE_ALONE)
    found = lengths([8, 8, 8], [stop] * 3, [[SURE], [SURE, SURE, UNSURE], [UNSURE, SURE]])
    assert found == [8, 3, 1]


def test_the_lookahead_ends_what_the_drafter_is_sure_of():
    assert lengths([3, 1], [early_stop(chances=SURE_ALONE)] * 2, [[SURE]] * 2) == [3, 1]


def test_a_token_that_is_unlikely_to_hold_is_not_drafted():
    """By its index; beyond the last one that is known, as that."""
    stop = early_stop(token_cost=0.5, chances=SURE_ALONE, nexts=bytes([255, 255, 255, 100]))
    assert lengths([8], [stop], [[SURE]]) == [3]
    stop = early_stop(token_cost=0.5, chances=SURE_ALONE, nexts=bytes([10, 255]))
    assert lengths([8], [stop], [[SURE]]) == [8], "the first token is drafted in any case"


def test_a_row_that_has_ended_does_not_go_on_when_the_token_after_is_likelier():
    stop = early_stop(token_cost=0.5, chances=SURE_ALONE, nexts=bytes([255, 10, 255]))
    assert lengths([8, 8], [stop, None], [[SURE]] * 2) == [1, 8]


def test_a_step_is_borne_by_all_that_go_on():
    stop = early_stop(token_cost=0.1, step_cost=0.5, chances=ALL_THE_SAME)
    for num_rows, expected in ((1, 1), (5, 1), (6, 2), (8, 2)):
        assert lengths([4] * num_rows, [stop] * num_rows, [[UNSURE]] * num_rows) == [expected] * num_rows
    sure = early_stop(token_cost=0.1, step_cost=0.5, chances=SURE_ALONE)
    assert lengths([4], [sure], [[SURE]]) == [4], "or by one that is likely enough to hold"


def test_those_that_have_ended_bear_nothing():
    stop = early_stop(step_cost=1.5, chances=SURE_ALONE)
    assert lengths([9, 9, 2], [stop] * 3, [[SURE], [SURE, SURE, UNSURE], [SURE]]) == [3, 3, 2]
    assert lengths([9, 9, 9], [stop] * 3, [[SURE], [SURE, SURE, UNSURE], [SURE]]) == [9, 9, 9]


def test_the_dearest_step_counts_of_those_that_go_on():
    cheap, dear = (early_stop(token_cost=0.5, step_cost=cost, chances=SURE_ALONE) for cost in (0.1, 0.9))
    assert lengths([5, 5], [cheap, cheap], [[SURE]] * 2) == [5, 5]
    assert lengths([5, 5], [cheap, dear], [[SURE]] * 2) == [5, 5]
    assert lengths([5, 2], [dear, dear], [[SURE]] * 2) == [2, 2], "one does not pay for it alone"
    assert lengths([5, 5], [cheap, dear], [[SURE], [UNSURE]]) == [5, 1], "the dear one has ended"


def test_a_step_that_is_run_for_a_told_row_costs_the_others_nothing():
    stop = early_stop(token_cost=0.05, step_cost=100.0, chances=ALL_THE_SAME)
    assert lengths([3, 3], [None, stop], [[UNSURE]] * 2) == [3, 2]
    assert lengths([1, 3], [None, stop], [[UNSURE]] * 2) == [1, 1], "it has all it was told"


def test_malformed_chances_are_not_usable():
    good = early_stop()
    assert is_usable(good)
    for chances in (b"", good.chances[1:], good.chances + b"\x00"):
        assert not is_usable(msgspec.structs.replace(good, chances=chances))
    assert not is_usable(msgspec.structs.replace(good, nexts=b""))
    assert is_usable(msgspec.structs.replace(good, nexts=b"\x00"))


def test_confidences_are_read_only_where_a_draft_may_end_by_them():
    def never() -> Sequence[float]:
        raise AssertionError("a device would have to be waited for")

    told = Drafting([2, 3], [None, None])
    told.has_stepped(never)
    assert told.lengths == [1, 1]
    open_one = Drafting([3, 3, 3], [early_stop(token_cost=0.5, chances=SURE_ALONE)] * 3)
    open_one.has_stepped(lambda: [SURE, UNSURE, SURE])
    assert (open_one.rows, open_one.num_active) == ([0, 2], 3), "the last row's place is kept for it"
    open_one.has_stepped(lambda: [UNSURE, UNSURE, SURE])
    assert open_one.rows == [2]
    open_one.has_stepped(lambda: [SURE, SURE, SURE])
    assert (open_one.rows, open_one.num_active, open_one.lengths) == ([], 0, [2, 1, 3])
