"""The compiled choice gives the tokens and probabilities of the tensor operations."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import assume, given, settings

from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import Choice, choose
from deployments.messages import SamplingParams
from tests.property.decoding.test_sampling_distribution import _WARPED, target_logits, with_coordinate
from tests.property.decoding.test_sampling_reference import MARGIN, logits, params, positions
from tests.support import decoding_reference as reference
from tests.support.choosers import ARCHITECTURES, compiled_forward

INF = float("inf")


def compiled(
    logits_RV: torch.Tensor, rows: SamplingRows, *, num_threads: int = 1, architecture: str = "native"
) -> Choice:
    return compiled_forward(num_threads, architecture).choose(logits_RV, rows)


def assert_same(logits_RV: torch.Tensor, rows: SamplingRows, architecture: str = "native") -> None:
    expected, found = choose(logits_RV, rows), compiled(logits_RV, rows, architecture=architecture)
    assert torch.equal(found.tokens_R, expected.tokens_R)
    torch.testing.assert_close(found.confidences_R, expected.confidences_R, rtol=2e-4, atol=1e-6)


@settings(max_examples=300, deadline=None)
@given(logits=logits, params=params, position=positions)
def test_choice_equals_the_reference(logits: list[float], params: SamplingParams, position: int) -> None:
    expected, margin = reference.choose(logits, params, position)
    assume(margin > MARGIN)
    choice = compiled(torch.tensor([logits]), SamplingRows.build([(params, position)]))
    assert int(choice.tokens_R) == expected
    is_sampled = params.temperature > 0
    weights = reference.distribution(logits, params) if is_sampled else torch.tensor(logits).softmax(-1).tolist()
    assert math.isclose(float(choice.confidences_R), weights[expected], rel_tol=1e-4, abs_tol=1e-6)


@pytest.mark.parametrize("params", _WARPED)
@pytest.mark.parametrize("varied", ["seed", "choice", "position"])
def test_the_draws_whose_distribution_is_tested(params: SamplingParams, varied: str) -> None:
    rows = SamplingRows.build([with_coordinate(params, varied, draw) for draw in range(4000)])
    assert_same(target_logits().repeat(4000, 1), rows)


@pytest.mark.parametrize(("vocab_size", "num_rows"), [(4096, 60), (4097, 20), (63, 60), (1, 3), (262_144, 6)])
@pytest.mark.parametrize("spread", [0.0, 0.5, 4.0])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_rows_of_every_kind(vocab_size: int, num_rows: int, spread: float, architecture: str) -> None:
    rng = random.Random(vocab_size)
    logits_RV = torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(1)) * spread
    logits_RV[::2] = (logits_RV[::2] * 4).round() / 4  # ties
    if vocab_size > 10:
        logits_RV[1::3, torch.randint(0, vocab_size, (vocab_size // 3,))] = -INF
    rows = [
        SamplingParams(
            temperature=rng.choice([0.0, 0.4, 1.0, 1.6]),
            top_k=rng.choice([0, 0, 1, 5, 40, 100_000]),
            top_p=rng.choice([1.0, 0.2, 0.9, 0.97]),
            min_p=rng.choice([0.0, 0.0, 0.05]),
            seed=rng.getrandbits(64),
        )
        for _ in range(num_rows)
    ]
    assert_same(logits_RV, SamplingRows.build([(row, position) for position, row in enumerate(rows)]), architecture)


def test_any_number_of_threads_gives_the_same() -> None:
    logits_RV = torch.randn(40, 40_000, generator=torch.Generator().manual_seed(2))
    rows = SamplingRows.build([(SamplingParams(temperature=1.0, seed=3), position) for position in range(40)])
    alone, shared = compiled(logits_RV, rows), compiled(logits_RV, rows, num_threads=3)
    assert torch.equal(alone.tokens_R, shared.tokens_R)
    assert torch.equal(alone.confidences_R, shared.confidences_R)


@pytest.mark.parametrize("broken", [math.nan, -INF, INF])
def test_a_broken_row_stays_a_token_and_leaves_its_neighbours_alone(broken: float) -> None:
    logits_RV = torch.randn(3, 100, generator=torch.Generator().manual_seed(2))
    for kind in (
        SamplingParams(),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=1.0, top_k=4, top_p=0.9),
        SamplingParams(temperature=1.0, top_p=0.9),
        SamplingParams(temperature=1.0, min_p=0.1),
    ):
        rows = SamplingRows.build([(kind, position) for position in range(3)])
        broken_RV = logits_RV.clone()
        broken_RV[1] = broken
        whole, choice = compiled(logits_RV, rows), compiled(broken_RV, rows)
        assert 0 <= int(choice.tokens_R[1]) < 100
        assert torch.equal(choice.tokens_R[[0, 2]], whole.tokens_R[[0, 2]])


def test_other_dtypes_and_layouts_take_the_tensor_operations() -> None:
    logits_RV = torch.randn(2, 64)
    rows = SamplingRows.build([(SamplingParams(temperature=1.0, seed=seed), 0) for seed in range(2)])
    for other in (logits_RV.bfloat16(), logits_RV.t().contiguous().t()):
        assert torch.equal(compiled(other, rows).tokens_R, choose(other, rows).tokens_R)


def test_an_empty_batch() -> None:
    choice = compiled(torch.empty(0, 64), SamplingRows.build([]))
    assert choice.tokens_R.shape == choice.confidences_R.shape == (0,)
