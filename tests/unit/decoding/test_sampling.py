import math

import pytest
import torch

from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import argmax, choose, warp
from deployments.messages import SamplingParams

INF = float("inf")


def rows_of(*params: SamplingParams) -> SamplingRows:
    return SamplingRows.build([(p, position) for position, p in enumerate(params)])


def kept(logits: list[float], params: SamplingParams) -> list[int]:
    return torch.nonzero(warp(torch.tensor([logits]), rows_of(params))[0] > -INF).flatten().tolist()


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits_RV = torch.tensor([[0.0, 3.0, 3.0, 1.0], [2.0, 2.0, 2.0, 2.0], [-INF, -5.0, -INF, -5.0]])
    choice = choose(logits_RV, rows_of(*[SamplingParams()] * 3))
    assert choice.tokens_R.tolist() == [1, 0, 1]


def test_greedy_confidence_is_the_raw_probability() -> None:
    logits_RV = torch.tensor([[0.0, math.log(3.0)], [5.0, -INF]])
    choice = choose(logits_RV, rows_of(SamplingParams(), SamplingParams()))
    torch.testing.assert_close(choice.confidences_R, torch.tensor([0.75, 1.0]))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_confidences_only_when_asked_for(temperature: float) -> None:
    logits_RV = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    rows = rows_of(*[SamplingParams(temperature=temperature)] * 3)
    without, with_ = choose(logits_RV, rows, with_confidences=False), choose(logits_RV, rows)
    assert without.confidences_R.shape == (0,)
    assert with_.confidences_R.shape == (3,)
    assert torch.equal(without.tokens_R, with_.tokens_R)


def test_sampled_confidence_is_the_warped_probability() -> None:
    logits_RV = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).repeat(50, 1)
    rows = SamplingRows.build([(SamplingParams(temperature=0.5, top_k=2, seed=seed), 0) for seed in range(50)])
    choice = choose(logits_RV, rows)
    assert set(choice.tokens_R.tolist()) == {2, 3}
    high = 1 / (1 + math.exp(-2.0))
    expected_R = torch.where(choice.tokens_R == 3, high, 1 - high)
    torch.testing.assert_close(choice.confidences_R, expected_R)


def test_inputs_are_left_alone() -> None:
    logits_RV = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    before_RV = logits_RV.clone()
    params = SamplingParams(temperature=0.5, top_k=3, top_p=0.5, min_p=0.1)
    choose(logits_RV, rows_of(params, SamplingParams()))
    choose(logits_RV, rows_of(SamplingParams(temperature=0.5), SamplingParams()))
    assert torch.equal(logits_RV, before_RV)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        pytest.param(SamplingParams(temperature=1.0), [0, 1, 2, 3], id="nothing removed"),
        pytest.param(SamplingParams(temperature=1.0, top_k=1), [1], id="top-k 1"),
        pytest.param(SamplingParams(temperature=1.0, top_k=2), [1, 2, 3], id="equals at the k-th place stay together"),
        pytest.param(SamplingParams(temperature=1.0, top_k=99), [0, 1, 2, 3], id="top-k over the vocabulary"),
        pytest.param(SamplingParams(temperature=1.0, top_p=0.3), [1], id="top-p below the likeliest"),
        pytest.param(SamplingParams(temperature=1.0, top_p=0.0), [1], id="top-p 0 keeps the likeliest"),
        pytest.param(SamplingParams(temperature=1.0, top_p=0.5), [1, 2, 3], id="equals at top-p stay together"),
        pytest.param(SamplingParams(temperature=1.0, top_p=0.91), [0, 1, 2, 3], id="top-p over the first three"),
        pytest.param(
            SamplingParams(temperature=1.0, top_k=2, top_p=0.85), [1, 2, 3], id="top-p shares what top-k left"
        ),
        pytest.param(
            SamplingParams(temperature=1.0, top_k=2, top_p=0.45), [1, 2, 3], id="equals past the k-th place have mass"
        ),
        pytest.param(SamplingParams(temperature=1.0, min_p=0.3), [1, 2, 3], id="min-p"),
        pytest.param(SamplingParams(temperature=1.0, min_p=1.5), [1], id="min-p over 1 keeps the likeliest"),
        pytest.param(SamplingParams(temperature=1.0, min_p=1.0), [1], id="min-p 1 keeps the likeliest"),
        pytest.param(SamplingParams(temperature=0.25, min_p=0.3), [1], id="min-p acts after temperature"),
        pytest.param(SamplingParams(temperature=0.25, top_p=0.75), [1], id="top-p acts after temperature"),
        pytest.param(SamplingParams(top_k=1, top_p=0.1, min_p=1.0), [0, 1, 2, 3], id="greedy ignores the rest"),
    ],
)
def test_what_the_warpers_keep(params: SamplingParams, expected: list[int]) -> None:
    probabilities = [0.1, 0.4, 0.25, 0.25]
    assert kept([math.log(p) for p in probabilities], params) == expected


def test_top_p_shares_only_the_mass_that_top_k_left() -> None:
    probabilities = [0.4, 0.3, 0.2, 0.1]
    logits = [math.log(p) for p in probabilities]
    # Of the mass 0.7 of the first two, 0.4 is a share of 0.57: that falls short of 0.6, but not of 0.5.
    assert kept(logits, SamplingParams(temperature=1.0, top_k=2, top_p=0.6)) == [0, 1]
    assert kept(logits, SamplingParams(temperature=1.0, top_k=2, top_p=0.5)) == [0]
    assert kept(logits, SamplingParams(temperature=1.0, top_p=0.5)) == [0, 1]


def test_top_p_reaches_past_the_first_sorted_head() -> None:
    """A flat distribution over 5,000 tokens: half the mass is half of them, found in a later, longer head."""
    logits_V = torch.linspace(0.0, -0.001, 5000)
    params = SamplingParams(temperature=1.0, top_p=0.5)
    assert len(kept(logits_V.tolist(), params)) == 2500
    assert len(kept(logits_V.tolist(), SamplingParams(temperature=1.0, top_k=600, top_p=0.5))) == 300
    short = SamplingParams(temperature=1.0, top_p=0.01)
    warped_RV = warp(logits_V.repeat(3, 1), rows_of(short, params, SamplingParams(temperature=1.0)))
    assert (warped_RV > -INF).sum(-1).tolist() == [50, 2500, 5000]


def test_masked_tokens_are_never_chosen() -> None:
    logits_RV = torch.full((200, 64), -INF)
    logits_RV[:, 7] = -40.0
    logits_RV[:, 9] = -41.0
    for params in (
        SamplingParams(temperature=2.0),
        SamplingParams(temperature=2.0, top_k=40),
        SamplingParams(temperature=2.0, top_p=0.99),
    ):
        rows = SamplingRows.build([(params, position) for position in range(200)])
        assert set(choose(logits_RV, rows).tokens_R.tolist()) == {7, 9}


def test_a_very_low_temperature_is_greedy_and_finite() -> None:
    logits_RV = torch.randn(20, 4096, generator=torch.Generator().manual_seed(1)) * 10
    for temperature in (1e-6, 1e-30):
        rows = SamplingRows.build([(SamplingParams(temperature=temperature, seed=3), i) for i in range(20)])
        choice = choose(logits_RV, rows)
        assert torch.equal(choice.tokens_R, logits_RV.argmax(-1))
        assert torch.equal(choice.confidences_R, torch.ones(20))


def test_near_equal_large_logits_keep_their_odds_at_a_low_temperature() -> None:
    """100 and 100 - 2**-10 at temperature 2**-10 are one nat apart, though 100 * 2**10 swallows noise of 0.004."""
    logits_RV = torch.tensor([[100.0, 100.0 - 2.0**-10]])
    torch.testing.assert_close(
        warp(logits_RV, rows_of(SamplingParams(temperature=2.0**-10))), torch.tensor([[0.0, -1.0]])
    )


def test_a_broken_row_stays_a_token_and_leaves_its_neighbours_alone() -> None:
    logits_RV = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    for params in (
        SamplingParams(),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=1.0, top_k=4, top_p=0.9),
        SamplingParams(temperature=1.0, top_p=0.9),
        SamplingParams(temperature=1.0, min_p=0.1),
    ):
        rows = rows_of(params, params, params)
        whole = choose(logits_RV, rows)
        for broken in (math.nan, -INF, INF):
            broken_RV = logits_RV.clone()
            broken_RV[1] = broken
            choice = choose(broken_RV, rows)
            assert 0 <= int(choice.tokens_R[1]) < 32
            assert torch.equal(choice.tokens_R[[0, 2]], whole.tokens_R[[0, 2]])
            assert torch.equal(choice.confidences_R[[0, 2]], whole.confidences_R[[0, 2]])


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_half_precision_logits(temperature: float) -> None:
    logits_RV = torch.randn(5, 512, generator=torch.Generator().manual_seed(3)).bfloat16()
    rows = rows_of(*[SamplingParams(temperature=temperature, top_k=8)] * 5)
    low, full = choose(logits_RV, rows), choose(logits_RV.float(), rows)
    assert torch.equal(low.tokens_R, full.tokens_R)
    assert torch.equal(low.confidences_R, full.confidences_R)
    assert low.confidences_R.dtype == torch.float32


def test_a_long_row_is_searched_in_blocks_with_the_same_result() -> None:
    generator = torch.Generator().manual_seed(4)
    values_RV = torch.randint(0, 40, (6, 65_536), generator=generator).float()
    for row in range(4):
        values_RV[row, torch.randint(0, 65_536, (2,), generator=generator)] = 50.0
    values_RV[5] = -INF
    assert torch.equal(argmax(values_RV), values_RV.argmax(-1))
    # A view whose rows do not lie next to each other, and a vocabulary that no block divides.
    assert torch.equal(argmax(values_RV[::2]), values_RV[::2].argmax(-1))
    assert torch.equal(argmax(values_RV.t().contiguous().t()), values_RV.argmax(-1))
    assert torch.equal(argmax(values_RV[:, 1:]), values_RV[:, 1:].argmax(-1))
    assert argmax(values_RV[:0]).shape == (0,)


@pytest.mark.parametrize("params", [SamplingParams(temperature=1.0), SamplingParams(temperature=1.0, top_p=0.5)])
@pytest.mark.parametrize("vocab_size", [12, 262_144])
def test_a_batch_of_which_no_row_is_left(params: SamplingParams, vocab_size: int) -> None:
    choice = choose(torch.empty(0, vocab_size), rows_of(params).take(slice(0, 0)))
    assert choice.tokens_R.shape == (0,)
    assert choice.confidences_R.shape == (0,)


def test_an_empty_batch() -> None:
    choice = choose(torch.empty(0, 4096), SamplingRows.build([]))
    assert choice.tokens_R.shape == (0,)
    assert choice.confidences_R.shape == (0,)
