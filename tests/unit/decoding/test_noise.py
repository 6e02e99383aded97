"""The noise: its bits, its distribution up to the far tail, and its independence of everything but its key."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from deployments.decoding import noise
from deployments.decoding.noise import gumbel_at, gumbel_RV, row_key, to_int64
from tests.support import decoding_reference as reference

SIGNIFICANCE = 1e-4
GEMMA_VOCAB = 262_144


def keys(num_rows: int, *, seed: int = 0, choice: int = 0) -> Tensor:
    """Keys of `num_rows` consecutive positions."""
    return torch.tensor([row_key(seed, choice, position) for position in range(num_rows)], dtype=torch.int64)


def test_bits_are_those_of_splitmix64() -> None:
    # The outputs that the generator's test vectors give for the state 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    bits_N = noise._mix_(noise._token_offsets(torch.arange(4)) + 1234567)
    assert [bits & reference.MASK for bits in bits_N.tolist()] == expected
    assert [noise._draw(1234567, index) for index in range(4)] == expected
    assert [reference.draw(1234567, index) for index in range(4)] == expected


def test_golden_noise() -> None:
    """Written down once: a change here changes every sampled output that anybody stored."""
    seeds = [0, 1, 2**63, 2**64 - 1]
    key_R = torch.tensor([row_key(*key) for key in zip(seeds, range(4), (0, 17, 4096, 131071), strict=True)])
    noise_RV = gumbel_RV(key_R, GEMMA_VOCAB)
    expected_RN = [
        [1.124159, -1.047613, -0.796445, 1.190178],
        [-0.491487, 0.146773, 1.489614, 2.713092],
        [1.59497, -0.072634, 0.14792, 1.123089],
        [0.474196, 1.018536, 0.152608, 2.330338],
    ]
    torch.testing.assert_close(
        noise_RV[:, [0, 1, 4095, GEMMA_VOCAB - 1]], torch.tensor(expected_RN), rtol=1e-6, atol=1e-6
    )


def test_every_64_bit_pattern_gives_a_finite_value_in_order() -> None:
    """Smallest bits, largest noise; the extremes of W are 2**-64 and the float64 below 1."""
    patterns = [0, 1, 2, 3, 2**10, 2**32, 2**53 + 1, 2**62, 2**63 - 2**12, 2**63 - 2**9, 2**63 - 2, 2**63 - 1]
    values = noise._gumbel(torch.tensor([to_int64(bits) for bits in patterns])).tolist()
    assert all(math.isfinite(value) for value in values)
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(64 * math.log(2), rel=1e-6)
    assert values[-1] == pytest.approx(-math.log(53 * math.log(2)), rel=1e-6)
    # The top bit is left out.
    assert noise._gumbel(torch.tensor([-(2**63), -1])).tolist() == [values[0], values[-1]]


def test_the_right_tail_is_precise() -> None:
    for bits in (1, 12345, 2**20 + 7, 2**33 + 1, 2**45 + 3):
        w = Fraction(2 * bits + 1, 2**64)
        value = float(noise._gumbel(torch.tensor([bits])))
        assert value == pytest.approx(-math.log(float(w)) - float(w) / 2, rel=2e-7)


def test_finite_with_the_right_tail_at_gemmas_vocabulary() -> None:
    num_rows = 24  # 6.3 million draws
    noise_RV = gumbel_RV(keys(num_rows, seed=2026), GEMMA_VOCAB)
    assert bool(noise_RV.isfinite().all())
    assert_gumbel(noise_RV.numpy())


@pytest.mark.parametrize("flaw", ["float32 uniform", "coarse uniform", "squashed uniform"])
def test_the_tail_test_notices_poor_noise(flaw: str) -> None:
    bits = np.random.default_rng(0).integers(0, 2**63, size=(24, GEMMA_VOCAB))
    bits[3, 5] = 2**63 - 1  # its upper 32 bits occur about once in 2**25 draws: too rare to wait for
    match flaw:
        case "float32 uniform":
            uniform = ((bits >> 31) + np.float32(0.5)).astype(np.float32) * np.float32(2.0**-32)
        case "coarse uniform":
            uniform = 1 - ((bits >> 49) + 0.5) / 2.0**14
        case _:
            uniform = 1e-5 + (1 - 2e-5) * (bits / 2.0**63)
    with np.errstate(divide="ignore"), pytest.raises(AssertionError):
        assert_gumbel(-np.log(-np.log(uniform)))


def assert_gumbel(noise_RV: np.ndarray) -> None:
    """Compare body, upper tail beyond 1e-3, 1e-5, 1e-6, and row maxima with the standard Gumbel distribution."""
    assert np.isfinite(noise_RV).all()
    assert stats.kstest(noise_RV.ravel()[:500_000].astype(np.float64), "gumbel_r").pvalue > SIGNIFICANCE
    for tail in (1e-3, 1e-5, 1e-6):
        count = int((noise_RV > stats.gumbel_r.isf(tail)).sum())
        assert stats.binomtest(count, noise_RV.size, tail).pvalue > SIGNIFICANCE, tail
    maxima_R = noise_RV.max(axis=1).astype(np.float64) - math.log(noise_RV.shape[1])
    assert stats.kstest(maxima_R, "gumbel_r").pvalue > SIGNIFICANCE


def test_noise_at_chosen_tokens_is_the_same_to_the_bit() -> None:
    key_R = keys(9, seed=5)
    noise_RV = gumbel_RV(key_R, 5000)
    row_N = torch.tensor([0, 3, 3, 8, 8, 8, 1])
    token_N = torch.tensor([4999, 0, 17, 4096, 4097, 1, 31])
    assert torch.equal(gumbel_at(key_R[row_N], token_N), noise_RV[row_N, token_N])


@pytest.mark.parametrize("vocab_size", [1, 7, 4096, 50_257])
def test_noise_of_a_row_does_not_depend_on_the_others_or_on_the_vocabulary(vocab_size: int) -> None:
    key_R = keys(150, seed=8)
    noise_RV = gumbel_RV(key_R, vocab_size)
    assert noise_RV.dtype == torch.float32
    for row in (0, 1, 77, 149):
        assert torch.equal(gumbel_RV(key_R[row : row + 1], vocab_size)[0], noise_RV[row])
    assert torch.equal(gumbel_RV(key_R[:4], vocab_size + 13)[:, :vocab_size], noise_RV[:4])


def test_no_rows() -> None:
    assert gumbel_RV(keys(0), 4096).shape == (0, 4096)
    assert gumbel_at(keys(0), torch.empty(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("varied", ["seed", "choice", "position", "token"])
@pytest.mark.parametrize("lag", [1, 2, 3, 32])
def test_noise_is_uncorrelated_across(varied: str, lag: int) -> None:
    """Neighbours along one coordinate of the key, the other three fixed or running along."""
    num_rows, vocab_size = 4096, 64
    fields = {"seed": 0, "choice": 0, "position": 0}
    coordinate = "position" if varied == "token" else varied
    key_R = torch.tensor([row_key(**(fields | {coordinate: index})) for index in range(num_rows)])
    noise_RV = gumbel_RV(key_R, vocab_size)
    if varied == "token":
        first, second = noise_RV[:, : vocab_size - lag], noise_RV[:, lag:]
    else:
        first, second = noise_RV[:-lag], noise_RV[lag:]
    assert stats.pearsonr(first.double().flatten().numpy(), second.double().flatten().numpy()).pvalue > SIGNIFICANCE
    # The larger noises decide: they must not meet more often than chance has it either.
    is_large = noise_RV > stats.gumbel_r.isf(0.05)
    assert stats.binomtest(int(is_large.sum()), is_large.numel(), 0.05).pvalue > SIGNIFICANCE
    both = int(((first > stats.gumbel_r.isf(0.05)) & (second > stats.gumbel_r.isf(0.05))).sum())
    assert stats.binomtest(both, first.numel(), 0.05**2).pvalue > SIGNIFICANCE


def test_no_two_rows_share_a_key() -> None:
    """Not the choices of one request with requests of neighbouring seeds, nor seeds that differ at the top."""
    seeds = [*range(24), *range(2**63, 2**63 + 4), *range(2**64 - 4, 2**64)]
    grid = [row_key(seed, choice, position) for seed in seeds for choice in range(32) for position in range(32)]
    assert len(set(grid)) == len(grid)
