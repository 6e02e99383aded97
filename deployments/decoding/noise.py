"""Counter-based Gumbel noise that drafter and verifier derive alike, each on its own machine.

Write draw(state, index) for the index-th output of SplitMix64 (Steele, Lea and Flood 2014) started at
`state`. The 64 bits behind the noise of one token are

    draw(draw(draw(seed, choice), position), token)

so they depend on nothing but these four integers. The first two draws, one per row, are plain Python
integers; the last, one per token, is made of int64 tensors: int64 addition and multiplication wrap alike on every
device; right shifts of int64 copy the sign, so each is masked. Only the two logarithms at the end are
floating point, in float64.

A Gumbel variable is -log(E) for an exponential E, and the largest noise, which decides an argmax, comes
from the smallest E. So 63 bits make W in (0, 1), precise where it is small, and
E = -log1p(-W) keeps that precision: the noise reaches 44, where drawing U = 1 - W in float32 would stop
(or become infinite) at 17, which one row in a hundred of 262,144 tokens exceeds.

Shapes: R = rows, V = vocabulary, N = (row, token) pairs.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_UINT64_MASK = (1 << 64) - 1


def to_int64(value: int) -> int:
    """The signed 64-bit integer with the same low 64 bits as `value`."""
    value &= _UINT64_MASK
    return value - (1 << 64) if value >> 63 else value


_GAMMA = to_int64(0x9E3779B97F4A7C15)
_MULTIPLIER_1 = to_int64(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = to_int64(0x94D049BB133111EB)

ACCEPT = 1 << 40
DRAFT = 1 << 41
"""Indices of child keys, for what rejection sampling draws; drafts add a salt."""

_LOWER_63_BITS = (1 << 63) - 1
_W_PER_COUNT = 2.0**-63 * (1.0 - 2.0**-53)

# Elements worked on at once: int64 and float64 temporaries of 2 MiB stay in a core's cache, a GPU wants more.
_CPU_SLICE_ELEMENTS = 1 << 18
_GPU_SLICE_ELEMENTS = 1 << 24


def row_key(seed: int, choice: int, position: int) -> int:
    """The state whose outputs are the bits of a row's tokens, as a signed 64-bit integer."""
    return to_int64(_draw(choice_state(seed, choice), position))


def gumbel_RV(key_R: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise for every token of the rows with these keys, float32 [R, V], finite everywhere.

    Rows are worked on in slices, so the temporaries stay small at any number of rows.
    """
    offset_V = _vocabulary_offsets(vocab_size, key_R.device)
    parts = row_slices(key_R.shape[0], vocab_size, key_R.device)
    if len(parts) == 1:
        return _gumbel(_mix_(key_R[:, None] + offset_V))
    noise_RV = torch.empty(key_R.shape[0], vocab_size, dtype=torch.float32, device=key_R.device)
    for part in parts:
        noise_RV[part] = _gumbel(_mix_(key_R[part, None] + offset_V))
    return noise_RV


def gumbel_at(key_N: Tensor, token_N: Tensor) -> Tensor:
    """The noise of single tokens, float32 [N], bit for bit that of `gumbel_RV` for the rows with these keys."""
    return _gumbel(_mix_(_token_offsets(token_N).add_(key_N)))


def child_key(key_R: Tensor, index_R: Tensor) -> Tensor:
    """Keys of noise that is independent of the rows' own; `index_R` is beyond every token, and tells purposes apart."""
    return _mix_(_token_offsets(index_R).add_(key_R))


def uniform(key_R: Tensor) -> Tensor:
    """One number in (0, 1) per key, float64 [R]; a key used for this is used for nothing else."""
    return key_R.bitwise_and(_LOWER_63_BITS).to(torch.float64).mul_(_W_PER_COUNT).add_(0.5 * _W_PER_COUNT)


def row_slices(num_rows: int, vocab_size: int, device: torch.device) -> list[slice]:
    """Consecutive slices of rows, as many rows each as the device should work on at once."""
    step = rows_at_once(vocab_size, device)
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def rows_at_once(vocab_size: int, device: torch.device) -> int:
    """How many rows the device should work on at once."""
    num_elements = _CPU_SLICE_ELEMENTS if device.type == "cpu" else _GPU_SLICE_ELEMENTS
    return max(1, num_elements // vocab_size)


@lru_cache(maxsize=4096)
def choice_state(seed: int, choice: int) -> int:
    """The state whose outputs are the keys of a session's rows, unsigned; output number `position` is a row's."""
    return _draw(seed, choice)


def _draw(state: int, index: int) -> int:
    """Output number `index` of SplitMix64 started at `state`, unsigned."""
    bits = (state + (index + 1) * _GAMMA) & _UINT64_MASK
    bits = ((bits ^ (bits >> 30)) * _MULTIPLIER_1) & _UINT64_MASK
    bits = ((bits ^ (bits >> 27)) * _MULTIPLIER_2) & _UINT64_MASK
    return bits ^ (bits >> 31)


def _token_offsets(token_N: Tensor) -> Tensor:
    """What a token's index adds to the state it is drawn from, int64 [N]."""
    return (token_N + 1).mul_(_GAMMA)


@lru_cache(maxsize=4)
def _vocabulary_offsets(vocab_size: int, device: torch.device) -> Tensor:
    return _token_offsets(torch.arange(vocab_size, device=device))


def _mix_(bits: Tensor) -> Tensor:
    """The second half of `_draw` on int64 tensors, in place."""
    bits.bitwise_xor_(_logical_shift(bits, 30)).mul_(_MULTIPLIER_1)
    bits.bitwise_xor_(_logical_shift(bits, 27)).mul_(_MULTIPLIER_2)
    return bits.bitwise_xor_(_logical_shift(bits, 31))


def _logical_shift(bits: Tensor, num_bits: int) -> Tensor:
    return (bits >> num_bits).bitwise_and_((1 << (64 - num_bits)) - 1)


def _gumbel(bits: Tensor) -> Tensor:
    """-log(-log1p(-W)) for W = (lower 63 bits + 1/2) / 2**63, float32; uses up `bits`.

    The bits are rounded once, to float64; the factor just below 2**-63 keeps those that round up to
    2**63 from making W = 1, whose noise is minus infinity.
    """
    count = bits.bitwise_and_(_LOWER_63_BITS).to(torch.float64)
    return count.mul_(-_W_PER_COUNT).sub_(0.5 * _W_PER_COUNT).log1p_().neg_().log_().neg_().to(torch.float32)
