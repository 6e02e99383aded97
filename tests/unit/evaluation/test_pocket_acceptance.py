"""The chances behind the table of acceptance modes, on distributions that can be worked out by hand."""

from __future__ import annotations

import pytest
import torch

from evaluation.pocket.acceptance import MODES, chances

TARGET = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
DRAFT = torch.tensor([[0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]).log()


@pytest.fixture
def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """The same over a vocabulary that has room for a truncation, all but three tokens impossible."""
    rest = torch.full((2, 200), -torch.inf)
    return torch.cat((TARGET, rest), 1), torch.cat((DRAFT, rest), 1)


def test_a_drafter_that_is_the_target_is_always_right(padded: tuple[torch.Tensor, torch.Tensor]) -> None:
    found = chances(padded[0], padded[0], 1.0, 7)
    assert [found[mode] for mode in MODES[:-1]] == pytest.approx([2.0] * 4)
    assert found["one-hot"] == pytest.approx(0.5 + 0.8)


def test_whole_rejection_keeps_what_both_distributions_share(padded: tuple[torch.Tensor, torch.Tensor]) -> None:
    found = chances(*padded, 1.0, 7)
    assert found["whole"] == pytest.approx(0.2 + 0.3 + 0.1 + 1.0)
    assert found["one-hot"] == pytest.approx(0.3 + 0.8)
    assert found["coupled"] <= found["whole"] + 0.5


def test_a_greedy_request_goes_by_equality_in_every_mode(padded: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert chances(*padded, 0.0, 7) == dict.fromkeys(MODES, 1.0)


def test_a_truncation_loses_what_lies_beyond_it() -> None:
    target_TV = torch.zeros(1, 256)
    found = chances(target_TV, target_TV, 1.0, 7)
    assert (found["whole"], found["128"], found["32"]) == pytest.approx((1.0, 0.5, 0.125))
