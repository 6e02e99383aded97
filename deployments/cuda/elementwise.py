"""The small operations between a Gemma 4 layer's products, each one Triton kernel; arithmetic is float32.

Shapes: T tokens, H hidden size, Q query heads, G kv heads, D head dimension, F feed-forward size, S slots.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def rms_norm(hidden_TH: torch.Tensor, weight_H: torch.Tensor | None, eps: float) -> torch.Tensor:
    """Each row scaled to unit mean square, then by the weight; shape (T, H)."""
    num_tokens, size = hidden_TH.shape
    output_TH = torch.empty_like(hidden_TH)
    width = triton.next_power_of_2(size)
    _rms_norm[(num_tokens,)](
        hidden_TH, hidden_TH if weight_H is None else weight_H, output_TH, eps,
        SIZE=size, WIDTH=width, HAS_WEIGHT=weight_H is not None, num_warps=_num_warps(width),
    )  # fmt: skip
    return output_TH


def add_norm(
    stream_TH: torch.Tensor,
    branch_TH: torch.Tensor,
    branch_weight_H: torch.Tensor,
    eps: float,
    *,
    scale: float = 1.0,
    next_weight_H: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(stream + norm(branch)) * scale, and the norm of that where `next_weight_H` is given (else itself)."""
    num_tokens, size = stream_TH.shape
    output_TH = torch.empty_like(stream_TH)
    normed_TH = output_TH if next_weight_H is None else torch.empty_like(stream_TH)
    width = triton.next_power_of_2(size)
    _add_norm[(num_tokens,)](
        stream_TH, branch_TH, branch_weight_H, branch_weight_H if next_weight_H is None else next_weight_H,
        output_TH, normed_TH, eps, scale,
        SIZE=size, WIDTH=width, HAS_NEXT=next_weight_H is not None, num_warps=_num_warps(width),
    )  # fmt: skip
    return output_TH, normed_TH


def gelu_times(gate_up_T2F: torch.Tensor) -> torch.Tensor:
    """gelu(gate) * up, by the tanh approximation; shape (T, F)."""
    num_tokens, doubled = gate_up_T2F.shape
    output_TF = torch.empty(num_tokens, doubled // 2, dtype=gate_up_T2F.dtype, device=gate_up_T2F.device)
    block = 1024
    _gelu_times[(num_tokens, triton.cdiv(doubled // 2, block))](gate_up_T2F, output_TF, SIZE=doubled // 2, BLOCK=block)
    return output_TF


def norm_and_rotate(
    projected_TE: torch.Tensor,
    query_weight_D: torch.Tensor,
    key_weight_D: torch.Tensor | None,
    cosines_TD: torch.Tensor,
    sines_TD: torch.Tensor,
    slots_T: torch.Tensor,
    pools: tuple[torch.Tensor, torch.Tensor],
    *,
    num_heads: int,
    shares_keys: bool,
    eps: float,
) -> torch.Tensor:
    """From a layer's projections to its queries, shape (T, Q, D), and its new entries, written to their slots.

    A row of `projected_TE` has all query heads, then, unless `key_weight_D` is None, all key heads and, unless values
    are made of the keys' projections (`shares_keys`), all value heads. `pools` are keys and values, (S, G, D) each. A
    token whose slot is negative leaves no entry.
    """
    num_tokens = len(projected_TE)
    keys_SGD, values_SGD = pools
    num_kv_heads, head_dim = keys_SGD.shape[1:]
    queries_TQD = torch.empty(num_tokens, num_heads, head_dim, dtype=projected_TE.dtype, device=projected_TE.device)
    has_keys = key_weight_D is not None
    _norm_and_rotate[(num_tokens, num_heads + (2 * num_kv_heads if has_keys else 0))](
        projected_TE, query_weight_D, key_weight_D if has_keys else query_weight_D, cosines_TD, sines_TD, slots_T,
        queries_TQD, keys_SGD, values_SGD, projected_TE.stride(0), eps,
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, DIM=head_dim,
        HALF=triton.next_power_of_2(head_dim // 2), SHARES_KEYS=shares_keys, num_warps=1,
    )  # fmt: skip
    return queries_TQD


def _num_warps(width: int) -> int:
    return max(1, min(16, width // 512))


@triton.jit
def _unit(values, size, eps):
    return values * tl.rsqrt(tl.sum(values * values, 0) / size + eps)


@triton.jit
def _weight(query_weight, key_weight, column, mask, head, NUM_HEADS: tl.constexpr):
    """The norm's weight of a query head, or of a key head behind them."""
    of_query = tl.load(query_weight + column, mask=mask, other=0.0).to(tl.float32)
    of_key = tl.load(key_weight + column, mask=mask, other=0.0).to(tl.float32)
    return tl.where(head < NUM_HEADS, of_query, of_key)


@triton.jit
def _rms_norm(hidden, weight, output, eps, SIZE: tl.constexpr, WIDTH: tl.constexpr, HAS_WEIGHT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * SIZE
    column = tl.arange(0, WIDTH)
    mask = column < SIZE
    normed = _unit(tl.load(hidden + row + column, mask=mask, other=0.0).to(tl.float32), SIZE, eps)
    if HAS_WEIGHT:
        normed = normed * tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(output + row + column, normed, mask=mask)


@triton.jit
def _add_norm(
    stream, branch, branch_weight, next_weight, output, normed, eps, scale,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, HAS_NEXT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * SIZE
    column = tl.arange(0, WIDTH)
    mask = column < SIZE
    added = _unit(tl.load(branch + row + column, mask=mask, other=0.0).to(tl.float32), SIZE, eps)
    added = added * tl.load(branch_weight + column, mask=mask, other=0.0).to(tl.float32)
    result = (tl.load(stream + row + column, mask=mask, other=0.0).to(tl.float32) + added) * scale
    result = result.to(output.dtype.element_ty)
    tl.store(output + row + column, result, mask=mask)
    if HAS_NEXT:
        following = _unit(result.to(tl.float32), SIZE, eps)
        following = following * tl.load(next_weight + column, mask=mask, other=0.0).to(tl.float32)
        tl.store(normed + row + column, following, mask=mask)


@triton.jit
def _gelu_times(gate_up, output, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < SIZE
    gate = tl.load(gate_up + row * 2 * SIZE + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * SIZE + SIZE + column, mask=mask, other=0.0).to(tl.float32)
    # (1 + tanh(z)) / 2 is the logistic function of 2 z.
    inner = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    tl.store(output + row * SIZE + column, gate * tl.sigmoid(inner) * up, mask=mask)


@triton.jit
def _norm_and_rotate(
    projected, query_weight, key_weight, cosines, sines, slots, queries, keys, values, stride, eps,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr,
    SHARES_KEYS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    is_value = head >= NUM_HEADS + NUM_KV_HEADS
    source = head
    if SHARES_KEYS:
        source = tl.where(is_value, head - NUM_KV_HEADS, head)
    column = tl.arange(0, HALF)
    mask = column < DIM // 2
    at = projected + token * stride + source * DIM + column
    low = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    high = tl.load(at + DIM // 2, mask=mask, other=0.0).to(tl.float32)
    factor = tl.rsqrt((tl.sum(low * low, 0) + tl.sum(high * high, 0)) / DIM + eps)
    low, high = low * factor, high * factor
    slot = tl.load(slots + token)
    if is_value:
        if slot >= 0:
            to = values + (slot * NUM_KV_HEADS + head - NUM_HEADS - NUM_KV_HEADS) * DIM + column
            tl.store(to, low, mask=mask)
            tl.store(to + DIM // 2, high, mask=mask)
    else:
        low *= _weight(query_weight, key_weight, column, mask, head, NUM_HEADS)
        high *= _weight(query_weight, key_weight, DIM // 2 + column, mask, head, NUM_HEADS)
        angle = token * DIM + column
        low_cosine = tl.load(cosines + angle, mask=mask, other=0.0).to(tl.float32)
        high_cosine = tl.load(cosines + angle + DIM // 2, mask=mask, other=0.0).to(tl.float32)
        low_sine = tl.load(sines + angle, mask=mask, other=0.0).to(tl.float32)
        high_sine = tl.load(sines + angle + DIM // 2, mask=mask, other=0.0).to(tl.float32)
        turned_low = low * low_cosine - high * low_sine
        turned_high = high * high_cosine + low * high_sine
        if head < NUM_HEADS:
            to = queries + (token * NUM_HEADS + head) * DIM + column
            tl.store(to, turned_low, mask=mask)
            tl.store(to + DIM // 2, turned_high, mask=mask)
        else:
            if slot >= 0:
                to = keys + (slot * NUM_KV_HEADS + head - NUM_HEADS) * DIM + column
                tl.store(to, turned_low, mask=mask)
                tl.store(to + DIM // 2, turned_high, mask=mask)
