import pytest
import torch

from deployments.decoding.noise import row_key, to_int64
from deployments.decoding.rows import SamplingRows
from deployments.messages import SamplingParams


def test_columns_hold_the_parameters_in_order() -> None:
    rows = SamplingRows.build(
        [
            (SamplingParams(temperature=0.5, top_k=7, top_p=0.25, min_p=0.125, seed=3, choice_index=2), 11),
            (SamplingParams(), 12),
        ]
    )
    assert len(rows) == 2
    assert rows.temperature_R.tolist() == [0.5, 0.0]
    assert rows.top_k_R.tolist() == [7, 0]
    assert rows.top_p_R.tolist() == [0.25, 1.0]
    assert rows.min_p_R.tolist() == [0.125, 0.0]
    assert rows.key_R.tolist() == [row_key(3, 2, 11), row_key(0, 0, 12)]
    assert rows.temperature_R.dtype == rows.top_p_R.dtype == rows.min_p_R.dtype == torch.float32
    assert rows.top_k_R.dtype == rows.key_R.dtype == torch.int64


def test_seeds_are_unsigned_64_bit() -> None:
    assert to_int64(2**63) == -(2**63)
    assert to_int64(2**64 - 1) == -1
    assert to_int64(2**63 - 1) == 2**63 - 1
    keys = [
        int(SamplingRows.build([(SamplingParams(temperature=1.0, seed=seed), 5)]).key_R)
        for seed in (0, 1, 2**63, 2**64 - 1)
    ]
    assert len(set(keys)) == 4


def test_all_greedy_rows_ask_for_nothing_else() -> None:
    rows = SamplingRows.build([(SamplingParams(top_k=5, top_p=0.5, min_p=0.5), 3)] * 4)
    assert len(rows) == 4
    assert rows.is_all_greedy
    assert not rows.is_all_sampled
    assert rows.max_top_k == 0
    assert not rows.has_top_p
    assert not rows.has_min_p
    assert torch.equal(rows.temperature_R, torch.zeros(4))


def test_no_rows_at_all() -> None:
    rows = SamplingRows.build([])
    assert len(rows) == 0
    assert rows.is_all_greedy


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        # is_all_cut, max_top_k, has_top_p, has_free_top_p, has_min_p
        (SamplingParams(temperature=1.0), (False, 0, False, False, False)),
        (SamplingParams(temperature=1.0, top_k=4), (True, 4, False, False, False)),
        (SamplingParams(temperature=1.0, top_p=0.5), (True, 0, True, True, False)),
        (SamplingParams(temperature=1.0, top_k=4, top_p=0.5), (True, 4, True, False, False)),
        (SamplingParams(temperature=1.0, min_p=0.5), (True, 0, False, False, True)),
    ],
)
def test_flags_name_what_a_sampled_row_asks_for(params: SamplingParams, expected: tuple[object, ...]) -> None:
    greedy = SamplingParams(top_k=9, top_p=0.1, min_p=0.1)
    rows = SamplingRows.build([(greedy, 0), (params, 1)])
    assert (rows.is_all_cut, rows.max_top_k, rows.has_top_p, rows.has_free_top_p, rows.has_min_p) == expected
    assert not rows.is_all_greedy
    assert not rows.is_all_sampled
    assert SamplingRows.build([(params, 1)]).is_all_sampled


def test_take_keeps_each_row_whole() -> None:
    params = [SamplingParams(temperature=1.0 + i, top_k=i, top_p=0.5, min_p=0.1 * i, seed=i) for i in range(5)]
    rows = SamplingRows.build([(p, i) for i, p in enumerate(params)])
    taken = rows.take(slice(2, 4))
    alone = SamplingRows.build([(params[2], 2), (params[3], 3)])
    for column in ("temperature_R", "top_k_R", "top_p_R", "min_p_R", "key_R"):
        assert torch.equal(getattr(taken, column), getattr(alone, column))
