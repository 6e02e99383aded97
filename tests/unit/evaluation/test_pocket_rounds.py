"""Expected numbers of tokens that hold, on distributions that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch

from evaluation.pocket.rounds import expected_lengths

TARGET = torch.tensor([[0.9, 0.1], [0.9, 0.1]])
DRAFT = torch.tensor([[0.5, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("draft", "one_by_one", "block"),
    [
        ([0, 0], 2.0, 2.0),
        ([0, 1], 1.2, 1.2),
        ([1, 0], 0.2 + 0.2, 2 * 0.36),  # the second token pays for the first
        ([1, 1], 0.2 + 0.2 * 0.2, 2 * 0.04),
    ],
)
def test_what_holds_of_a_given_proposal(draft: list[int], one_by_one: float, block: float) -> None:
    assert expected_lengths(TARGET, DRAFT, draft) == pytest.approx((one_by_one, block))


def test_a_block_keeps_more_over_all_proposals() -> None:
    """All four are equally likely under the draft."""
    lengths = [expected_lengths(TARGET, DRAFT, [first, second]) for first in (0, 1) for second in (0, 1)]
    one_by_one, block = (sum(column) / 4 for column in zip(*lengths, strict=True))
    assert one_by_one == pytest.approx(0.6 + 0.6 * 0.6)
    assert block == pytest.approx((2.0 + 1.2 + 0.72 + 0.08) / 4)
    assert block > one_by_one


def test_a_drafter_that_is_the_target_is_kept_whole() -> None:
    assert expected_lengths(TARGET, TARGET, [0, 1]) == pytest.approx((2.0, 2.0))
