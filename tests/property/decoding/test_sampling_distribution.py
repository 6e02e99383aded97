"""Sampled tokens follow the target's warped distribution: chi-square over 20,000 draws and more.

The expected frequencies come from the slow reference in float64. Each kind of draw varies one
coordinate of the noise's key only, so that noise which ignores that coordinate is caught.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from msgspec import structs
from scipy import stats
from torch import Tensor

from deployments.decoding import noise, rows
from deployments.decoding.adjustments import Adjuster, RowGroup, adjust
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose
from deployments.messages import SamplingParams
from tests.support import decoding_reference as reference

SIGNIFICANCE = 1e-4
NUM_DRAWS = 24_000
VOCAB = 48

_UNWARPED = SamplingParams(temperature=1.0, seed=99)
_WARPED = [
    _UNWARPED,
    SamplingParams(temperature=0.6, seed=1),
    SamplingParams(temperature=1.5, seed=2),
    SamplingParams(temperature=1.0, top_k=9, seed=3),
    SamplingParams(temperature=1.0, top_p=0.8, seed=4),
    SamplingParams(temperature=1.0, min_p=0.08, seed=5),
    SamplingParams(temperature=0.7, top_k=20, top_p=0.9, seed=6),
    SamplingParams(temperature=1.3, top_k=24, top_p=0.95, min_p=0.03, seed=7),
    SamplingParams(temperature=2.0, top_p=0.9, min_p=0.05, seed=8),
]


def target_logits() -> Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(11)) * 1.5


def with_coordinate(params: SamplingParams, varied: str, draw: int) -> tuple[SamplingParams, int]:
    """`params` and a position, with the varied coordinate of the noise's key set to `draw`."""
    fields = {"temperature": params.temperature, "top_k": params.top_k, "top_p": params.top_p, "min_p": params.min_p}
    seed = draw if varied == "seed" else params.seed
    choice = draw if varied == "choice" else 0
    position = draw if varied == "position" else 7
    return SamplingParams(**fields, seed=seed, choice_index=choice), position


def draws(params: SamplingParams, varied: str, num_draws: int = NUM_DRAWS) -> np.ndarray:
    sampling_rows = SamplingRows.build([with_coordinate(params, varied, draw) for draw in range(num_draws)])
    logits_RV = target_logits().repeat(num_draws, 1)
    return choose(logits_RV, sampling_rows, with_confidences=False).tokens_R.numpy()


def fit(tokens: np.ndarray, probabilities: np.ndarray) -> float:
    """The p-value of a chi-square test, cells expected less than ten times put together; 0 for a forbidden token."""
    observed = np.bincount(tokens, minlength=len(probabilities))
    if observed[probabilities == 0].any():
        return 0.0
    expected = probabilities * len(tokens)
    is_rare = expected < 10
    observed_cells = np.append(observed[~is_rare], observed[is_rare].sum())
    expected_cells = np.append(expected[~is_rare], expected[is_rare].sum())
    if expected_cells[-1] == 0:
        observed_cells, expected_cells = observed_cells[:-1], expected_cells[:-1]
    return float(stats.chisquare(observed_cells, expected_cells * len(tokens) / expected_cells.sum()).pvalue)


def target(params: SamplingParams) -> np.ndarray:
    return np.array(reference.distribution(target_logits().tolist(), params))


@pytest.mark.parametrize("varied", ["seed", "choice", "position"])
@pytest.mark.parametrize(
    "params", _WARPED, ids=lambda params: f"T{params.temperature}k{params.top_k}p{params.top_p}m{params.min_p}"
)
def test_tokens_follow_the_warped_distribution(params: SamplingParams, varied: str) -> None:
    assert fit(draws(params, varied), target(params)) > SIGNIFICANCE


def test_successive_positions_are_independent() -> None:
    params = SamplingParams(temperature=1.0, top_k=6, seed=17)
    tokens = draws(params, "position", 40_000)
    probabilities = target(params)
    pairs = tokens[:-1:2] * VOCAB + tokens[1::2]
    assert fit(pairs, np.outer(probabilities, probabilities).ravel()) > SIGNIFICANCE


def test_two_requests_of_neighbouring_seeds_are_independent() -> None:
    params = SamplingParams(temperature=1.0, top_k=6, seed=17)
    tokens = draws(params, "seed", 40_000)
    probabilities = target(params)
    pairs = tokens[:-1:2] * VOCAB + tokens[1::2]
    assert fit(pairs, np.outer(probabilities, probabilities).ravel()) > SIGNIFICANCE


@pytest.mark.parametrize("params", [_WARPED[0], _WARPED[6]], ids=["whole", "cut"])
@pytest.mark.parametrize(
    "flaw",
    [
        pytest.param(lambda gumbel: torch.zeros_like(gumbel), id="none"),
        pytest.param(lambda gumbel: gumbel * 0.9, id="too small"),
        pytest.param(lambda gumbel: -gumbel, id="wrong tail"),
        pytest.param(lambda gumbel: torch.exp(-torch.exp(-gumbel)), id="the uniform itself"),
        pytest.param(lambda gumbel: gumbel.clamp_max(1.5), id="squashed uniform"),
        pytest.param(lambda gumbel: gumbel.round(), id="coarse"),
    ],
)
def test_the_chi_square_rejects_broken_noise(
    flaw: Callable[[Tensor], Tensor], params: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = noise._gumbel
    monkeypatch.setattr(noise, "_gumbel", lambda bits: flaw(sound(bits)))
    assert fit(draws(params, "position"), target(params)) < SIGNIFICANCE


@pytest.mark.parametrize("ignored", ["seed", "choice", "position"])
def test_the_chi_square_rejects_noise_that_ignores_part_of_its_key(
    ignored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = noise.row_key

    def row_key(seed: int, choice: int, position: int) -> int:
        return sound(**({"seed": seed, "choice": choice, "position": position} | {ignored: 0}))

    monkeypatch.setattr(rows, "row_key", row_key)
    assert fit(draws(_UNWARPED, ignored), target(_UNWARPED)) < SIGNIFICANCE


def test_the_chi_square_rejects_noise_that_ignores_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_vocabulary_offsets", lambda size, device: torch.ones(size, dtype=torch.int64))
    assert fit(draws(_UNWARPED, "position"), target(_UNWARPED)) < SIGNIFICANCE


def test_the_pair_test_rejects_noise_reused_at_the_next_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token alone still follows the target; only the pairs give it away."""
    sound = noise.row_key
    monkeypatch.setattr(rows, "row_key", lambda seed, choice, position: sound(seed, choice, position // 2))
    params = SamplingParams(temperature=1.0, top_k=6, seed=17)
    tokens = draws(params, "position", 40_000)
    probabilities = target(params)
    assert fit(tokens[::2], probabilities) > SIGNIFICANCE
    pairs = tokens[:-1:2] * VOCAB + tokens[1::2]
    assert fit(pairs, np.outer(probabilities, probabilities).ravel()) < SIGNIFICANCE


_ADJUSTED = {
    "penalties": SamplingParams(
        temperature=0.8, repetition_penalty=1.4, presence_penalty=0.6, frequency_penalty=0.5, num_prompt_tokens=3
    ),
    "bias and ban": SamplingParams(
        temperature=1.2, top_p=0.9, logit_bias=((2, 3.0), (9, -2.0)), banned_token_ids=(5, 7), banned_before=99
    ),
}


@pytest.mark.parametrize("is_sound", [True, False], ids=["sound", "unadjusted"])
@pytest.mark.parametrize("params", _ADJUSTED.values(), ids=_ADJUSTED)
def test_adjusted_tokens_follow_the_adjusted_distribution(params: SamplingParams, is_sound: bool) -> None:
    """And draws that were not adjusted are rejected."""
    context = [4, 44, 30, 10, 44, 11, 44]  # 44 is the likeliest
    adjuster = Adjuster(params)
    adjuster.extend(0, context)
    logits_RV = target_logits().repeat(NUM_DRAWS, 1)
    groups = [RowGroup(adjuster, row, 1, len(context), ()) for row in range(NUM_DRAWS)]
    sampling_rows = SamplingRows.build(
        [(structs.replace(params, seed=draw), len(context)) for draw in range(NUM_DRAWS)]
    )
    chosen = choose(adjust(logits_RV, groups) if is_sound else logits_RV, sampling_rows, with_confidences=False)
    adjusted = reference.adjust(target_logits().tolist(), params, context)
    expected = np.array(reference.distribution(adjusted, params))
    assert (fit(chosen.tokens_R.numpy(), expected) > SIGNIFICANCE) is is_sound
