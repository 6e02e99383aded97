"""The likeliest token of each row, or the one whose score and noise are highest, in one reading of the scores.

The noise is `decoding.noise`'s, made where it is added: as tensors of its own it would be written and read a dozen
times over. Its bits are the same; its logarithms round alike but for the last place of a float32 here and there.

Shapes: R rows, V vocabulary, P parts of a row.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_PART = 2048
_STEP = 1024
_NO_TOKEN: tl.constexpr = tl.constexpr(1 << 30)

# SplitMix64's constants as signed numbers, and what makes 63 bits a number below 1 (decoding/noise.py).
_GAMMA: tl.constexpr = tl.constexpr(0x9E3779B97F4A7C15 - (1 << 64))
_MULTIPLIER_1: tl.constexpr = tl.constexpr(0xBF58476D1CE4E5B9 - (1 << 64))
_MULTIPLIER_2: tl.constexpr = tl.constexpr(0x94D049BB133111EB - (1 << 64))
_W_PER_COUNT: tl.constexpr = tl.constexpr(2.0**-63 * (1.0 - 2.0**-53))


def pick(
    scores_RV: torch.Tensor, keys_R: torch.Tensor, temperatures_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, int64 (R,), and their share of exp(scores), float32 (R,).

    Rows of temperature 0 have no noise. Equals go to the lowest token. A row without a finite score yields some token.
    """
    num_rows, vocab_size = scores_RV.shape
    scores_RV = scores_RV.contiguous()
    num_parts = triton.cdiv(vocab_size, _PART)
    parts_4RP = torch.empty(4, num_rows, num_parts, dtype=torch.float32, device=scores_RV.device)
    places_RP = torch.empty(num_rows, num_parts, dtype=torch.int64, device=scores_RV.device)
    tokens_R = torch.empty(num_rows, dtype=torch.int64, device=scores_RV.device)
    shares_R = torch.empty(num_rows, dtype=torch.float32, device=scores_RV.device)
    if num_rows == 0:
        return tokens_R, shares_R
    _pick_parts[(num_rows, num_parts)](
        scores_RV, keys_R, temperatures_R, parts_4RP, places_RP, vocab_size, num_parts, PART=_PART, STEP=_STEP
    )
    _pick_rows[(num_rows,)](
        parts_4RP, places_RP, tokens_R, shares_R, num_parts, WIDTH=triton.next_power_of_2(num_parts), num_warps=1
    )
    return tokens_R, shares_R


@triton.jit
def _gumbel(bits):
    """-log(-log1p(-W)), float32; log1p(x) as x log(1 + x) / ((1 + x) - 1), which is exact to the last places."""
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * _MULTIPLIER_1
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * _MULTIPLIER_2
    bits = (bits ^ ((bits >> 31) & 0x1FFFFFFFF)) & 0x7FFFFFFFFFFFFFFF
    w = bits.to(tl.float64) * _W_PER_COUNT + 0.5 * _W_PER_COUNT
    left = 1.0 - w
    is_small = left == 1.0
    exponential = tl.where(is_small, w, w * tl.log(tl.where(is_small, 0.5, left)) / tl.where(is_small, 1.0, left - 1.0))
    return (-tl.log(exponential)).to(tl.float32)


@triton.jit
def _pick_parts(
    scores, keys, temperatures, parts, places, vocab_size, num_parts, PART: tl.constexpr, STEP: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    key = tl.load(keys + row)
    is_noisy = tl.load(temperatures + row) > 0
    total = row.to(tl.float32) * 0
    best = total - float("inf")
    best_score, highest = best, best
    place = part.to(tl.int64) * PART
    for begin in range(0, PART, STEP):
        token = part * PART + begin + tl.arange(0, STEP)
        mask = token < vocab_size
        score = tl.load(scores + row * vocab_size + token, mask=mask, other=-float("inf")).to(tl.float32)
        value = score
        if is_noisy:
            value = score + _gumbel(key + (token + 1).to(tl.int64) * _GAMMA)
        top = tl.max(value, 0)
        at = tl.min(tl.where(value == top, token, _NO_TOKEN), 0)
        is_better = top > best
        best_score = tl.where(is_better, tl.max(tl.where(token == at, score, -float("inf")), 0), best_score)
        place = tl.where(is_better, at.to(tl.int64), place)
        best = tl.where(is_better, top, best)
        higher = tl.maximum(highest, tl.max(score, 0))
        base = tl.where(higher == -float("inf"), 0.0, higher)
        total = total * tl.exp(highest - base) + tl.sum(tl.exp(score - base), 0)
        highest = higher
    at = row * num_parts + part
    size = tl.num_programs(0) * num_parts
    tl.store(parts + at, best)
    tl.store(parts + size + at, best_score)
    tl.store(parts + 2 * size + at, highest)
    tl.store(parts + 3 * size + at, total)
    tl.store(places + at, place)


@triton.jit
def _pick_rows(parts, places, tokens, shares, num_parts, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, WIDTH)
    mask = part < num_parts
    at = row * num_parts + part
    size = tl.num_programs(0) * num_parts
    best = tl.load(parts + at, mask=mask, other=-float("inf"))
    first = tl.min(tl.where((best == tl.max(best, 0)) & mask, part, WIDTH), 0)
    first = tl.where(first == WIDTH, 0, first)  # a row of NaN
    tl.store(tokens + row, tl.load(places + row * num_parts + first))
    score = tl.load(parts + size + row * num_parts + first)
    maximum = tl.load(parts + 2 * size + at, mask=mask, other=-float("inf"))
    total = tl.load(parts + 3 * size + at, mask=mask, other=0.0)
    highest = tl.max(maximum, 0)
    base = tl.where(highest == -float("inf"), 0.0, highest)
    tl.store(shares + row, tl.exp(score - base) / tl.sum(total * tl.exp(maximum - base), 0))
