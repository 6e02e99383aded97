"""Attention by address equals softmax over each session's own entries, however they lie and are split.

The interpreter multiplies no bfloat16 matrices: those are tests/gpu's.
"""

from __future__ import annotations

import pytest
import torch

from deployments.cuda.draft_attention import Places, QueryTurn, attend, num_splits

LENGTHS = [0, 1, 15, 16, 17, 200, 67]
FLOOR = 1e-3


def make_turn(num_sessions: int, head_dim: int) -> QueryTurn:
    angles = torch.randn(num_sessions, head_dim // 2).repeat(1, 2)
    straight, crossed = torch.rand(2, head_dim) * 4 + 1
    return QueryTurn(
        cosines_BE=angles.cos(), sines_BE=angles.sin(), straight_E=straight, crossed_E=crossed, floor=FLOOR
    )


def reference(
    projected: torch.Tensor, turn: QueryTurn, entries: list[torch.Tensor], dtype: torch.dtype
) -> torch.Tensor:
    """The same, one session and one head after another."""
    outputs = torch.zeros_like(projected, dtype=torch.float32)
    for session, (keys, values) in enumerate(entries):
        for head, query in enumerate(projected[session].float()):
            query = query / (query.square().sum() + FLOOR).sqrt()
            straight, crossed = turn.straight_E * turn.cosines_BE[session], turn.crossed_E * turn.sines_BE[session]
            turned = (query * straight + query.roll(len(query) // 2) * crossed).to(dtype).float()
            kv_head = head * len(keys) // len(projected[session])
            weights = (keys[kv_head].float() @ turned).softmax(0)
            outputs[session, head] = weights @ values[kv_head].float()
    return outputs


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim", "dtype"),
    [
        (4, 2, 8, torch.float32),
        (2, 2, 24, torch.float32),
        (16, 1, 64, torch.float16),
        (3, 1, 16, torch.float16),
        (4, 2, 512, torch.float16),
        (2, 1, 512, torch.float32),
    ],
)
@pytest.mark.parametrize("splits", [1, 4])
def test_attention_by_address(
    num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, splits: int
) -> None:
    torch.manual_seed(head_dim)
    turn = make_turn(len(LENGTHS), head_dim)
    projected = torch.randn(len(LENGTHS), num_heads, head_dim).to(dtype)
    # As in a shadow: heads lie a capacity apart, keys before values, entries do not begin at the buffer's start.
    buffers = [torch.randn(2, num_kv_heads, length + 9, head_dim).to(dtype) for length in LENGTHS]
    entries = [buffer[:, :, 5 : 5 + length] for buffer, length in zip(buffers, LENGTHS, strict=True)]
    rows = [(keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.shape[1]) for keys, values in entries]
    table = torch.tensor(rows).T
    wide = torch.full((4, len(LENGTHS) + 3), -1)
    wide[:, : len(LENGTHS)] = table
    places = Places(table_4L=wide, num_kv_heads=num_kv_heads, num_splits=splits)
    attended = attend(projected, turn, places)
    assert attended.dtype == dtype
    expected = reference(projected, turn, entries, dtype)
    assert torch.equal(attended[0].float(), torch.zeros(num_heads, head_dim))
    assert expected[5].abs().max() > 0.1
    tolerance = 1e-5 if dtype == torch.float32 else 3e-3
    torch.testing.assert_close(attended.float(), expected, atol=tolerance, rtol=tolerance)


def test_splits_fill_a_device_and_are_not_tiny() -> None:
    cpu = torch.device("cpu")
    assert [num_splits(sessions, 2, cpu) for sessions in (1, 2, 4, 64)] == [4, 2, 1, 1]
    assert num_splits(1, 1, cpu, longest=300) == 4
    assert num_splits(1, 1, cpu, longest=12) == 1
