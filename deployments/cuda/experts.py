"""A mixture of experts on few tokens: each chosen expert's weights are read once for all tokens that chose it.

A pair is a token and one of its experts. A program computes a block of one expert's outputs for that expert's pairs,
a few at a time; where there are no more pairs than experts, each pair is a group of its own and nothing is sorted.

Shapes: T tokens, K experts a token, N = T * K pairs, E experts, H hidden size, F an expert's inner size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

_FEW_ROWS, _MANY_ROWS = 16, 64
"""Pairs of one expert that a program takes at a time: as many as a matrix unit wants, or what many tokens bring."""


@dataclass(frozen=True, slots=True)
class _Groups:
    """Pairs by expert: `order_N` lists them expert after expert from `starts` on, or, unsorted, each by itself."""

    order_N: torch.Tensor
    starts: torch.Tensor
    number: int
    is_sorted: bool


def route(logits_TE: torch.Tensor, scales_E: torch.Tensor, num_chosen: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest experts of each token and their weights, which add up to 1 before the experts' own scales.

    Both have shape (T, K); int64 and float32. Equal logits go to the lowest number.
    """
    num_tokens, num_experts = logits_TE.shape
    chosen_TK = torch.empty(num_tokens, num_chosen, dtype=torch.int64, device=logits_TE.device)
    weights_TK = torch.empty(num_tokens, num_chosen, dtype=torch.float32, device=logits_TE.device)
    _route[(num_tokens,)](
        logits_TE, scales_E, chosen_TK, weights_TK,
        NUM_EXPERTS=num_experts, WIDTH=triton.next_power_of_2(num_experts),
        CHOSEN=num_chosen, SLOTS=triton.next_power_of_2(num_chosen), num_warps=1,
    )  # fmt: skip
    return chosen_TK, weights_TK


def apply_experts(
    hidden_TH: torch.Tensor,
    chosen_TK: torch.Tensor,
    weights_TK: torch.Tensor,
    gate_up_E2FH: torch.Tensor,
    down_EHF: torch.Tensor,
) -> torch.Tensor:
    """The weighted sum of what each token's experts make of it, gelu(gate) * up between their products; (T, H)."""
    num_tokens, num_chosen = chosen_TK.shape
    num_pairs, hidden_size, inner_size = num_tokens * num_chosen, hidden_TH.shape[1], down_EHF.shape[2]
    groups = _grouped(chosen_TK.flatten(), len(down_EHF))
    num_rows = _FEW_ROWS if num_pairs <= _FEW_ROWS // 2 * len(down_EHF) else _MANY_ROWS
    inner_NF = torch.empty(num_pairs, inner_size, dtype=hidden_TH.dtype, device=hidden_TH.device)
    output_NH = torch.empty(num_pairs, hidden_size, dtype=torch.float32, device=hidden_TH.device)
    _gate_up[(groups.number, triton.cdiv(inner_size, 32))](
        hidden_TH, chosen_TK, groups.order_N, groups.starts, gate_up_E2FH, inner_NF,
        IN=hidden_size, OUT=inner_size, CHOSEN=num_chosen, IS_SORTED=groups.is_sorted, ROWS=num_rows,
        COLUMNS=32, DEPTH=min(128, max(16, triton.next_power_of_2(hidden_size))), PRECISION=_precision(hidden_TH),
        num_stages=3,
    )  # fmt: skip
    _down[(groups.number, triton.cdiv(hidden_size, 64))](
        inner_NF, chosen_TK, groups.order_N, groups.starts, down_EHF, weights_TK, output_NH,
        IN=inner_size, OUT=hidden_size, IS_SORTED=groups.is_sorted, ROWS=num_rows,
        COLUMNS=64, DEPTH=min(64, max(16, triton.next_power_of_2(inner_size))), PRECISION=_precision(hidden_TH),
        num_stages=3,
    )  # fmt: skip
    return output_NH.view(num_tokens, num_chosen, hidden_size).sum(1).to(hidden_TH.dtype)


def _grouped(experts_N: torch.Tensor, num_experts: int) -> _Groups:
    if len(experts_N) <= num_experts:
        return _Groups(experts_N, experts_N, len(experts_N), is_sorted=False)
    sorted_N, order_N = torch.sort(experts_N, stable=True)
    bounds = torch.arange(num_experts + 1, device=experts_N.device)
    return _Groups(order_N, torch.searchsorted(sorted_N, bounds), num_experts, is_sorted=True)


def _precision(tensor: torch.Tensor) -> str:
    return "ieee" if tensor.dtype == torch.float32 else "tf32"


@triton.jit
def _route(
    logits, scales, chosen, weights,
    NUM_EXPERTS: tl.constexpr, WIDTH: tl.constexpr, CHOSEN: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, WIDTH)
    slot = tl.arange(0, SLOTS)
    logit = tl.load(logits + token * NUM_EXPERTS + expert, mask=expert < NUM_EXPERTS, other=-float("inf"))
    logit = logit.to(tl.float32)
    highest = tl.max(logit, 0)
    best = tl.zeros([SLOTS], tl.int32)
    weight = tl.zeros([SLOTS], tl.float32)
    for place in range(CHOSEN):
        largest = tl.max(logit, 0)
        index = tl.min(tl.where(logit == largest, expert, WIDTH), 0)
        best = tl.where(slot == place, index, best)
        weight = tl.where(slot == place, tl.exp(largest - highest), weight)
        logit = tl.where(expert == index, -float("inf"), logit)
    is_slot = slot < CHOSEN
    weight = weight / tl.sum(weight, 0) * tl.load(scales + best, mask=is_slot, other=0.0).to(tl.float32)
    tl.store(chosen + token * CHOSEN + slot, best.to(tl.int64), mask=is_slot)
    tl.store(weights + token * CHOSEN + slot, weight, mask=is_slot)


@triton.jit
def _gate_up(
    hidden, chosen, order, starts, weights, inner,
    IN: tl.constexpr, OUT: tl.constexpr, CHOSEN: tl.constexpr, IS_SORTED: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0)
    expert, first, count = _bounds(group, chosen, starts, IS_SORTED)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    matrix = weights + expert * 2 * OUT * IN
    for begin in range(0, count, ROWS):
        pair, is_pair = _pairs(order, first, begin, count, IS_SORTED, ROWS)
        gate = _product(hidden, pair // CHOSEN, is_pair, matrix, column, IN, OUT, DEPTH, ROWS, COLUMNS, PRECISION)
        up = _product(
            hidden, pair // CHOSEN, is_pair, matrix + OUT * IN, column, IN, OUT, DEPTH, ROWS, COLUMNS, PRECISION
        )
        z = 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
        mask = is_pair[:, None] & (column < OUT)[None, :]
        tl.store(inner + pair[:, None] * OUT + column[None, :], gate * tl.sigmoid(z) * up, mask=mask)


@triton.jit
def _down(
    inner, chosen, order, starts, weights, shares, output,
    IN: tl.constexpr, OUT: tl.constexpr, IS_SORTED: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0)
    expert, first, count = _bounds(group, chosen, starts, IS_SORTED)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    matrix = weights + expert * OUT * IN
    for begin in range(0, count, ROWS):
        pair, is_pair = _pairs(order, first, begin, count, IS_SORTED, ROWS)
        result = _product(inner, pair, is_pair, matrix, column, IN, OUT, DEPTH, ROWS, COLUMNS, PRECISION)
        share = tl.load(shares + pair, mask=is_pair, other=0.0)
        mask = is_pair[:, None] & (column < OUT)[None, :]
        tl.store(output + pair[:, None] * OUT + column[None, :], result * share[:, None], mask=mask)


@triton.jit
def _bounds(group, chosen, starts, IS_SORTED: tl.constexpr):
    """A group's expert, where its pairs begin, and how many they are."""
    if IS_SORTED:
        expert = group.to(tl.int64)
        first = tl.load(starts + group)
        count = tl.load(starts + group + 1) - first
    else:
        expert = tl.load(chosen + group)
        first = group.to(tl.int64)
        count = first * 0 + 1
    return expert, first, count


@triton.jit
def _pairs(order, first, begin, count, IS_SORTED: tl.constexpr, ROWS: tl.constexpr):
    """The next pairs of a group, and which of them there are."""
    place = begin + tl.arange(0, ROWS)
    is_pair = place < count
    pair = first + place
    if IS_SORTED:
        pair = tl.load(order + pair, mask=is_pair, other=0)
    return pair, is_pair


@triton.jit
def _product(
    inputs, row, is_row, matrix, column,
    IN: tl.constexpr, OUT: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of the inputs times columns of a matrix (OUT, IN), float32."""
    result = tl.zeros([ROWS, COLUMNS], tl.float32)
    for begin in range(0, IN, DEPTH):
        inside = begin + tl.arange(0, DEPTH)
        is_inside = inside < IN
        part = tl.load(
            inputs + row[:, None] * IN + inside[None, :], mask=is_row[:, None] & is_inside[None, :], other=0.0
        )
        weight = tl.load(
            matrix + column[:, None] * IN + inside[None, :],
            mask=(column < OUT)[:, None] & is_inside[None, :],
            other=0.0,
        )
        result += tl.dot(part, tl.trans(weight), input_precision=PRECISION)
    return result
