"""A draft that ends early is the beginning of the one that does not, on every pass, whoever is beside it."""

from __future__ import annotations

import pytest

from deployments.messages import SamplingParams
from tests.integration.test_mtp_engine import GREEDY, KINDS, make_engine, sampled, some_tokens, wide_pair
from tests.support.draft_drill import ADJUSTED
from tests.support.early_stops import (
    assert_beginnings,
    assert_ends_as_expected,
    early_stop,
    ending_after,
    open_batch,
    with_stops,
)

LOOKAHEADS = (8, 8, 7, 6, 6, 5, 3)
NEVER = 9
"""Told: without a record of when to end."""
ENDS = {
    "rows in the middle and all others later": (8, 2, 7, 1, 5, 5, 3),
    "the first rows": (1, 2, 7, 6, 6, 5, 3),
    "nearly all at once": (8, 2, 2, 2, 2, 2, 2),
    "beside some that are told": (NEVER, 2, NEVER, 1, 5, NEVER, 1),
    "all but those that are told": (1, 3, 1, NEVER, 2, NEVER, 1),
}
PARAMS = {
    "greedy": [GREEDY] * 7,
    "sampled": [sampled(seed) for seed in range(7)],
    "both": [GREEDY, sampled(1), SamplingParams(temperature=1.0, top_k=9, seed=2), GREEDY, sampled(4), GREEDY, GREEDY],
}
REJECTING = SamplingParams(temperature=1.0, acceptance="rejection", seed=5)


def contexts(seed: int, num: int = 7) -> list[list[int]]:
    """Known tokens, of lengths on both sides of the window."""
    return [some_tokens(3 + 7 * row % 31, 10 * seed + row) for row in range(num)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("ends", ENDS)
def test_each_row_ends_where_it_should_and_changes_no_other_token(ends: str, params: str, kind: str) -> None:
    pair = wide_pair({})
    engine = make_engine(pair, kind=kind)
    requests = open_batch([engine], pair, contexts(1), LOOKAHEADS, PARAMS[params])
    whole = engine.draft(requests)
    stops = [
        None if length == NEVER else ending_after(length, draft.confidences)
        for length, draft in zip(ENDS[ends], whole, strict=True)
    ]
    lengths = list(map(min, ENDS[ends], LOOKAHEADS))
    assert_beginnings(engine.draft(with_stops(requests, stops)), whole, lengths)
    # In whatever order they come.
    assert_beginnings(engine.draft(with_stops(requests, stops)[::-1]), whole[::-1], lengths[::-1])


@pytest.mark.parametrize("params", PARAMS)
def test_all_passes_end_drafts_by_the_plain_account(params: str) -> None:
    pair = wide_pair({})
    engines = [make_engine(pair, kind=kind) for kind in ("compiled", "stepwise", "lean")]
    assert_ends_as_expected(pair, engines, PARAMS[params])


def test_rows_whose_logits_are_adjusted_end_early_as_well() -> None:
    pair = wide_pair({})
    engine = make_engine(pair)
    requests = open_batch([engine], pair, contexts(3), LOOKAHEADS, [ADJUSTED, GREEDY, *[ADJUSTED] * 5])
    whole = engine.draft(requests)
    lengths = ENDS["rows in the middle and all others later"]
    stops = [ending_after(length, draft.confidences) for length, draft in zip(lengths, whole, strict=True)]
    assert_beginnings(engine.draft(with_stops(requests, stops)), whole, lengths)


@pytest.mark.parametrize("kind", ["compiled", "lean"])
def test_a_row_that_draws_to_be_rejected_never_ends_early(kind: str) -> None:
    """Whether its token is verified may not depend on how likely it was; the others beside it end as they would."""
    pair = wide_pair({})
    engine = make_engine(pair, kind=kind)
    params = [GREEDY, REJECTING, GREEDY, REJECTING, *[GREEDY] * 3]
    assert REJECTING.draws_to_reject
    requests = open_batch([engine], pair, contexts(4), LOOKAHEADS, params)
    whole = engine.draft(requests)
    greedy = [row for row, each in enumerate(params) if each == GREEDY]
    hopeless = early_stop(token_cost=1e9, step_cost=1e9)
    stops = [ending_after(2, whole[row].confidences) if row in greedy else hopeless for row in range(7)]
    found = engine.draft(with_stops(requests, stops))
    assert [len(draft.tokens) for draft in found] == [2, 8, 2, 6, 2, 2, 2]
    for draft, all_of_it in zip(found, whole, strict=True):
        assert draft.tokens == all_of_it.tokens[: len(draft.tokens)]
        assert len(draft.distributions) == (0 if draft.confidences else len(draft.tokens))
