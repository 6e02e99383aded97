"""Attention of packed queries over a paged cache, as Triton kernels.

A tile is a run of packed tokens of one session, at most `TILE_TOKENS`; a program of the kernel attends a few
of a tile's tokens, all query heads of one kv head at once, to one split of the entries that they see. So a
proposal's tokens read their session's entries together, and a lone session with a long context still fills
the device. Splits are put together by a second kernel.

Shapes: T packed tokens, W tiles, H query heads, G kv heads, D head dimension, S slots, R table rows, M columns,
P splits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from deployments.cuda.splits import merge_splits, wanted_programs

TILE_TOKENS = 8

_MAX_SPLITS = 32
_LEAST_ENTRIES = 64
"""A split of fewer entries costs more in putting together than it saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """Where a batch's tokens stand and where their sessions' entries lie.

    `tiles_4W` (int64): a tile's first packed token, number of tokens (0: there is no such tile), position of the
    first, and table row. `blocks_RM` (int64) are the block tables.
    """

    tiles_4W: torch.Tensor
    blocks_RM: torch.Tensor
    block_size: int


def tiles(chunks: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int, int, int]]:
    """Cut chunks, each (number of tokens, position of the first, table row), into tiles, as `Paging` has them."""
    first = 0
    for num_tokens, start, row in chunks:
        for done in range(0, num_tokens, TILE_TOKENS):
            yield first + done, min(TILE_TOKENS, num_tokens - done), start + done, row
        first += num_tokens


def attend(
    queries_THD: torch.Tensor,
    keys_SGD: torch.Tensor,
    values_SGD: torch.Tensor,
    paging: Paging,
    *,
    window: int | None,
    scaling: float,
) -> torch.Tensor:
    """Attend every token to its own session's entries, itself and before (at most `window`); shape (T, H, D)."""
    num_heads, head_dim = queries_THD.shape[1:]
    num_kv_heads = keys_SGD.shape[1]
    group = num_heads // num_kv_heads
    num_tiles = paging.tiles_4W.shape[1]
    # What a program holds in registers: fewer tokens where heads are wide or many.
    most = 8192 if head_dim <= 256 else 16384
    tokens_a_program = max(1, min(TILE_TOKENS, most // (max(16, head_dim) * group)))
    tokens_a_program = 1 << (tokens_a_program.bit_length() - 1)
    num_rows = num_tiles * (TILE_TOKENS // tokens_a_program)
    longest = paging.blocks_RM.shape[1] * paging.block_size
    if window is not None:
        longest = min(longest, window + TILE_TOKENS)
    num_splits = _num_splits(num_rows * num_kv_heads, longest, queries_THD.device)
    output_THD = torch.empty_like(queries_THD)
    parts = _partial_results(output_THD, num_splits)
    is_single = queries_THD.dtype == torch.float32
    _attend_tiles[(num_rows, num_kv_heads, num_splits)](
        queries_THD,
        keys_SGD,
        values_SGD,
        *parts,
        paging.tiles_4W,
        paging.blocks_RM,
        num_tiles,
        paging.blocks_RM.shape[1],
        scaling,
        NUM_KV_HEADS=num_kv_heads,
        GROUP=group,
        DIM=head_dim,
        WIDTH=max(16, triton.next_power_of_2(head_dim)),
        PER_TILE=TILE_TOKENS // tokens_a_program,
        TOKENS=tokens_a_program,
        ROWS=max(16, triton.next_power_of_2(tokens_a_program * group)),
        ENTRIES=32 if head_dim > 256 or is_single else 64,
        WINDOW=window or 0,
        SPLITS=num_splits,
        BLOCK_SIZE=paging.block_size,
        PRECISION="ieee" if is_single else "tf32",
        num_warps=4,
        num_stages=1 if is_single else 2,
    )
    if num_splits > 1:
        merge_splits(*parts, output_THD)
    return output_THD


def _num_splits(num_programs: int, longest: int, device: torch.device) -> int:
    """As many as fill the device, none of them tiny; a power of two, so that few variants are compiled."""
    most = min(_MAX_SPLITS, longest // _LEAST_ENTRIES)
    num_splits = 1
    while 2 * num_splits <= most and num_programs * num_splits < wanted_programs(device):
        num_splits *= 2
    return num_splits


def _partial_results(output_THD: torch.Tensor, num_splits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Each split's result, shape (T, H, P, D), and the logarithm of its weights' sum; without splits the output."""
    if num_splits == 1:
        return output_THD, output_THD  # the second is not written
    num_tokens, num_heads, head_dim = output_THD.shape
    results_THPD = torch.empty(
        num_tokens, num_heads, num_splits, head_dim, dtype=torch.float32, device=output_THD.device
    )
    logsums_THP = torch.empty(num_tokens, num_heads, num_splits, dtype=torch.float32, device=output_THD.device)
    return results_THPD, logsums_THP


@triton.jit
def _attend_tiles(
    queries, keys, values, results, logsums, tiles, blocks, num_tiles, num_columns, scaling,
    NUM_KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr,
    PER_TILE: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, ENTRIES: tl.constexpr,
    WINDOW: tl.constexpr, SPLITS: tl.constexpr, BLOCK_SIZE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0) // PER_TILE
    done = tl.program_id(0) % PER_TILE * TOKENS
    kv_head, split = tl.program_id(1), tl.program_id(2)
    count = tl.load(tiles + num_tiles + tile) - done
    if count <= 0:
        return
    count = tl.minimum(count, TOKENS)
    first = tl.load(tiles + tile) + done
    start = tl.load(tiles + 2 * num_tiles + tile) + done
    row = tl.load(tiles + 3 * num_tiles + tile)
    member = tl.arange(0, ROWS)
    token = member // GROUP
    is_query = token < count
    column = tl.arange(0, WIDTH)
    is_column = column < DIM
    place = (first + token) * (NUM_KV_HEADS * GROUP) + kv_head * GROUP + member % GROUP
    mask = is_query[:, None] & is_column[None, :]
    query = tl.load(queries + place[:, None] * DIM + column[None, :], mask=mask, other=0.0)

    stop = start + count
    begin = tl.maximum(start - WINDOW + 1, 0) if WINDOW > 0 else start * 0
    share = tl.cdiv(tl.cdiv(stop - begin, SPLITS), ENTRIES) * ENTRIES
    begin += split * share
    stop = tl.minimum(stop, begin + share)
    best = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, WIDTH], tl.float32)
    for at in range(begin, stop, ENTRIES):
        position = at + tl.arange(0, ENTRIES)
        is_entry = position < stop
        block = tl.load(blocks + row * num_columns + position // BLOCK_SIZE, mask=is_entry, other=0)
        slot = block * BLOCK_SIZE + position % BLOCK_SIZE
        entry = (slot * NUM_KV_HEADS + kv_head)[:, None] * DIM + column[None, :]
        entry_mask = is_entry[:, None] & is_column[None, :]
        distance = (start + token)[:, None] - position[None, :]
        is_seen = is_entry[None, :] & (distance >= 0)
        if WINDOW > 0:
            is_seen = is_seen & (distance < WINDOW)
        key = tl.load(keys + entry, mask=entry_mask, other=0.0)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scaling
        value = tl.load(values + entry, mask=entry_mask, other=0.0)
        best, total, result = _fold(tl.where(is_seen, score, -float("inf")), value, best, total, result, PRECISION)

    has_seen = total > 0
    total = tl.where(has_seen, total, 1.0)
    if SPLITS > 1:
        place = place * SPLITS + split
        tl.store(logsums + place, tl.where(has_seen, best + tl.log(total), -float("inf")), mask=is_query)
    tl.store(results + place[:, None] * DIM + column[None, :], result / total[:, None], mask=mask)


@triton.jit
def _fold(score, value, best, total, result, PRECISION: tl.constexpr):
    """Entries with these scores and values, taken into a softmax that runs along: its highest score, sum and result."""
    higher = tl.maximum(best, tl.max(score, 1))
    # Rows that have seen nothing yet subtract 0, so that no difference of infinities arises.
    base = tl.where(higher == -float("inf"), 0.0, higher)
    weight = tl.exp(score - base[:, None])
    shrunk = tl.exp(best - base)
    total = total * shrunk + tl.sum(weight, 1)
    result = result * shrunk[:, None] + tl.dot(weight.to(value.dtype), value, input_precision=PRECISION)
    return higher, total, result
