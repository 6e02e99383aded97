"""Attention of a drafter's queries, one per session, over entries that stay where its shadows keep them.

A program attends all query heads of one kv head of one session to one split of the entries, which it finds by
address; splits are put together by a second kernel, so that a lone session with a long context still fills the
device. Queries are normed and rotated on the way in, scores are not scaled.

Shapes: B sessions, Q query heads, E head dimension, P splits. L is what the columns of a table are apart: at least B.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from deployments.cuda.splits import merge_splits, wanted_programs

_MAX_SPLITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTurn:
    """What turns a projection into a query: q / sqrt(|q|^2 + floor) * (straight * cos), and the same of the other
    half of q with (crossed * sin), where `crossed` has the sign. All float32."""

    cosines_BE: torch.Tensor
    sines_BE: torch.Tensor
    straight_E: torch.Tensor
    crossed_E: torch.Tensor
    floor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where each session's entries lie: `table_4L` (int64) has `EntryMemory`'s four numbers, a session a column.

    A session without entries attends to nothing, and gets zeros.
    """

    table_4L: torch.Tensor
    num_kv_heads: int
    num_splits: int


def num_splits(num_sessions: int, num_kv_heads: int, device: torch.device, longest: int | None = None) -> int:
    """Splits that fill the device where no session has more than `longest` entries; a power of two."""
    wanted = wanted_programs(device) // (num_sessions * num_kv_heads)
    most = _MAX_SPLITS if longest is None else min(_MAX_SPLITS, longest // 64)
    return 1 << (max(1, min(wanted, most)).bit_length() - 1)


def attend(projected_BQE: torch.Tensor, turn: QueryTurn, places: Places) -> torch.Tensor:
    """What each session's query reads from its entries, shape (B, Q, E)."""
    num_sessions, num_heads, head_dim = projected_BQE.shape
    splits, group = places.num_splits, num_heads // places.num_kv_heads
    output_BQE = torch.empty_like(projected_BQE)
    results, logsums = output_BQE, output_BQE  # without splits the second is not written
    if splits > 1:
        results = output_BQE.new_empty(num_sessions, num_heads, splits, head_dim, dtype=torch.float32)
        logsums = output_BQE.new_empty(num_sessions, num_heads, splits, dtype=torch.float32)
    width = max(16, triton.next_power_of_2(head_dim))
    is_single = projected_BQE.dtype == torch.float32
    _attend_split[(num_sessions, places.num_kv_heads, splits)](
        projected_BQE,
        turn.cosines_BE,
        turn.sines_BE,
        turn.straight_E,
        turn.crossed_E,
        places.table_4L,
        places.table_4L.stride(0),
        results,
        logsums,
        turn.floor,
        GROUP=group,
        DIM=head_dim,
        WIDTH=width,
        ROWS=max(16, triton.next_power_of_2(group)),
        ENTRIES=max(16, min(64, _tile_elements(projected_BQE) // width)),
        IS_SPLIT=splits > 1,
        IS_ALIGNED=head_dim * projected_BQE.element_size() % 16 == 0,
        num_warps=4,
        num_stages=1 if is_single else 2,
    )
    if splits > 1:
        merge_splits(results, logsums, output_BQE)
    return output_BQE


def _tile_elements(like: torch.Tensor) -> int:
    """Elements of keys that a program holds at once: with as many values, twice that fits into shared memory."""
    if like.dtype == torch.float32 or like.device.type != "cuda":
        return 8192
    capability = torch.cuda.get_device_capability(like.device)
    return 16384 if capability == (8, 0) or capability[0] in (9, 10) else 8192


@triton.jit
def _turned(projected, place, mask, column, angles, cosines, sines, straight, crossed, floor, DIM: tl.constexpr):
    """Some projections of one session, normed and rotated; `angles` is where its angles begin."""
    is_column = column < DIM
    at = projected + place[:, None] * DIM
    query = tl.load(at + column[None, :], mask=mask, other=0.0).to(tl.float32)
    swapped = tl.load(at + ((column + DIM // 2) % DIM)[None, :], mask=mask, other=0.0).to(tl.float32)
    cosine = tl.load(cosines + angles + column, mask=is_column, other=0.0)
    sine = tl.load(sines + angles + column, mask=is_column, other=0.0)
    cosine *= tl.load(straight + column, mask=is_column, other=0.0)
    sine *= tl.load(crossed + column, mask=is_column, other=0.0)
    factor = tl.rsqrt(tl.sum(query * query, 1) + floor)
    return ((query * cosine[None, :] + swapped * sine[None, :]) * factor[:, None]).to(projected.dtype.element_ty)


@triton.jit
def _attend_split(
    projected, cosines, sines, straight, crossed, table, table_stride, results, logsums, floor,
    GROUP: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, ENTRIES: tl.constexpr,
    IS_SPLIT: tl.constexpr, IS_ALIGNED: tl.constexpr,
):  # fmt: skip
    session = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    splits = tl.num_programs(2)

    member = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)
    is_column = column < DIM
    mask = (member < GROUP)[:, None] & is_column[None, :]
    place = (session * tl.num_programs(1) + kv_head) * GROUP + member
    query = _turned(projected, place, mask, column, session * DIM, cosines, sines, straight, crossed, floor, DIM)

    stride = tl.load(table + 2 * table_stride + session)
    num_entries = tl.load(table + 3 * table_stride + session).to(tl.int32)
    element = tl.pointer_type(projected.dtype.element_ty)
    keys = tl.load(table + session).to(element) + kv_head * stride
    values = tl.load(table + table_stride + session).to(element) + kv_head * stride
    if IS_ALIGNED:
        keys = tl.multiple_of(keys, 16)
        values = tl.multiple_of(values, 16)

    share = tl.cdiv(tl.cdiv(num_entries, splits), ENTRIES) * ENTRIES
    begin = split * share
    stop = tl.minimum(num_entries, begin + share)
    best = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, WIDTH], tl.float32)
    for first in range(begin, stop, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        is_entry = entry < stop
        offset = entry[:, None].to(tl.int64) * DIM + column[None, :]
        entry_mask = is_entry[:, None] & is_column[None, :]
        key = tl.load(keys + offset, mask=entry_mask, other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision="ieee")
        score = tl.where(is_entry[None, :], score, -float("inf"))
        higher = tl.maximum(best, tl.max(score, 1))  # finite: the first entry of a block is one
        weight = tl.exp(score - higher[:, None])
        shrunk = tl.exp(best - higher)
        total = total * shrunk + tl.sum(weight, 1)
        value = tl.load(values + offset, mask=entry_mask, other=0.0)
        result = result * shrunk[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        best = higher

    total = tl.where(total > 0, total, 1.0)  # where there are no entries the best is minus infinity
    result = result / total[:, None]
    if IS_SPLIT:
        place = place * splits + split
        tl.store(logsums + place, best + tl.log(total), mask=member < GROUP)
    tl.store(results + place[:, None] * DIM + column[None, :], result, mask=mask)
