import pytest
import torch

from deployments.decoding.acceptance import accept


@pytest.mark.parametrize(
    ("chosen", "drafts", "expected"),
    [
        pytest.param([], [], [], id="empty batch"),
        pytest.param([7], [[]], [(0, 7)], id="k = 0"),
        pytest.param([1, 2, 3, 4], [[1, 2, 3]], [(3, 4)], id="all accepted"),
        pytest.param([1, 2, 3, 4], [[9, 2, 3]], [(0, 1)], id="none accepted, though later tokens agree"),
        pytest.param([1, 2, 3, 4], [[1, 9, 3]], [(1, 2)], id="a prefix accepted"),
        pytest.param([1, 2, 5, 3, 8, 8], [[1], [], [3, 9]], [(1, 2), (0, 5), (1, 8)], id="ragged"),
        pytest.param([1, 2, 4, 3, 7], [[9, 9], [3]], [(0, 1), (1, 7)], id="a rejected proposal before another"),
    ],
)
def test_longest_agreeing_prefix(chosen: list[int], drafts: list[list[int]], expected: list[tuple[int, int]]) -> None:
    assert accept(chosen, drafts) == expected
    assert accept(torch.tensor(chosen, dtype=torch.int64), drafts) == expected


@pytest.mark.parametrize("chosen", [[1], [1, 2, 3]])
def test_a_wrong_number_of_rows_is_refused(chosen: list[int]) -> None:
    with pytest.raises(ValueError, match="need 2 chosen tokens"):
        accept(chosen, [[1]])
