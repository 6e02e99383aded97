"""Cost tables: what a step takes on named hardware."""

from __future__ import annotations

import pytest

from deployments.policy.hardware import DraftTable, StepTable, pairs
from deployments.timing import StepShape

TABLE = StepTable(tokens=(1, 4, 8), step_ms=(10.0, 11.0, 15.0), sequence_ms=0.5, context_ms=2.0)


@pytest.mark.parametrize(("num_tokens", "expected"), [(1, 10.0), (2, 11.0), (5, 15.0), (8, 15.0), (10, 17.0)])
def test_a_step_is_a_staircase_and_beyond_its_end_a_line(num_tokens: int, expected: float) -> None:
    assert TABLE.predict(StepShape(num_sequences=0, num_tokens=num_tokens)) == expected


def test_sequences_and_context_add_to_a_step() -> None:
    assert TABLE.predict(StepShape(num_sequences=3, num_tokens=4, num_context_tokens=2048)) == 11.0 + 1.5 + 4.0


def test_a_draft_takes_its_longest_lookahead() -> None:
    table = DraftTable(fixed_ms=1.0, step_ms=3.0, token_ms=0.5)
    assert table.predict([2, 4]) == 1.0 + 12.0 + 3.0


def test_every_table_says_where_it_comes_from_and_climbs() -> None:
    for pair in pairs().values():
        assert pair.source.startswith(("computed: ", "measured: "))
        assert len(pair.verify.tokens) == len(pair.verify.step_ms)
        assert list(pair.verify.tokens) == sorted(set(pair.verify.tokens))
        assert list(pair.verify.step_ms) == sorted(pair.verify.step_ms)
