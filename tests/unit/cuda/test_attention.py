"""The paged attention kernel against attention written out, token by token."""

from __future__ import annotations

import pytest
import torch

from deployments.cuda.attention import TILE_TOKENS, Paging, attend, tiles

BLOCK_SIZE, NUM_ROWS, NUM_COLUMNS = 16, 3, 24
SCALING = 0.7
Chunks = list[tuple[int, int, int]]


def written_out(
    queries_THD: torch.Tensor,
    keys_SGD: torch.Tensor,
    values_SGD: torch.Tensor,
    blocks_RM: torch.Tensor,
    chunks: Chunks,
    window: int | None,
) -> torch.Tensor:
    output_THD = torch.empty_like(queries_THD)
    group = queries_THD.shape[1] // keys_SGD.shape[1]
    token = 0
    for num_tokens, start, row in chunks:
        for position in range(start, start + num_tokens):
            seen = torch.arange(0 if window is None else max(0, position - window + 1), position + 1)
            slots = blocks_RM[row, seen // BLOCK_SIZE] * BLOCK_SIZE + seen % BLOCK_SIZE
            keys_LHD, values_LHD = (pool[slots].repeat_interleave(group, 1) for pool in (keys_SGD, values_SGD))
            scores_HL = torch.einsum("hd,lhd->hl", queries_THD[token], keys_LHD) * SCALING
            output_THD[token] = torch.einsum("hl,lhd->hd", scores_HL.softmax(-1), values_LHD)
            token += 1
    return output_THD


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim", "window", "chunks"),
    [
        pytest.param(4, 2, 8, None, [(1, 0, 0), (5, 20, 1), (9, 33, 2)], id="small heads"),
        pytest.param(4, 1, 16, 12, [(3, 5, 0), (17, 40, 1), (1, 60, 2)], id="a window"),
        pytest.param(6, 2, 48, None, [(2, 7, 1), (4, 100, 0)], id="no power of two"),
        pytest.param(8, 2, 64, None, [(2, 300, 0)], id="long enough for splits"),
        pytest.param(8, 2, 64, 100, [(9, 300, 0)], id="a window in splits"),
        pytest.param(8, 1, 512, None, [(6, 90, 0)], id="wide heads"),
    ],
)
def test_every_token_attends_to_its_own_entries(
    num_heads: int, num_kv_heads: int, head_dim: int, window: int | None, chunks: Chunks
) -> None:
    torch.manual_seed(0)
    num_slots = (NUM_ROWS * NUM_COLUMNS + 1) * BLOCK_SIZE
    keys_SGD, values_SGD = torch.randn(2, num_slots, num_kv_heads, head_dim)
    keys_SGD[:BLOCK_SIZE] = values_SGD[:BLOCK_SIZE] = torch.nan  # the null block: nobody may read it here
    blocks_RM = (torch.randperm(NUM_ROWS * NUM_COLUMNS) + 1).view(NUM_ROWS, NUM_COLUMNS)
    queries_THD = torch.randn(sum(size for size, _, _ in chunks), num_heads, head_dim)
    found = list(tiles(chunks))
    tiles_4W = torch.zeros(4, len(found) + 2, dtype=torch.int64)
    tiles_4W[:, : len(found)] = torch.tensor(found).T

    output_THD = attend(
        queries_THD,
        keys_SGD,
        values_SGD,
        Paging(tiles_4W=tiles_4W, blocks_RM=blocks_RM, block_size=BLOCK_SIZE),
        window=window,
        scaling=SCALING,
    )

    expected_THD = written_out(queries_THD, keys_SGD, values_SGD, blocks_RM, chunks, window)
    torch.testing.assert_close(output_THD, expected_THD, atol=1e-4, rtol=1e-4)


def test_tiles_cover_every_token_once() -> None:
    chunks = [(1, 0, 5), (TILE_TOKENS, 9, 1), (2 * TILE_TOKENS + 3, 40, 0)]
    covered = [(first + i, start + i, row) for first, count, start, row in tiles(chunks) for i in range(count)]
    positions = [(start + i, row) for size, start, row in chunks for i in range(size)]
    assert covered == [(token, *place) for token, place in enumerate(positions)]
    assert all(1 <= count <= TILE_TOKENS for _, count, _, _ in tiles(chunks))
