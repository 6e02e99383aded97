"""The small operations between an assistant's products, each one Triton kernel.

Norms are those of `lean_forward.py`: x / sqrt(|x|^2 + floor), their weights folded into the products that follow.
Sums between layers are float32.

Shapes: B sessions, V vocabulary, D the assistant's hidden size.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def embed_norm(
    tokens_B: torch.Tensor, table_VD: torch.Tensor, carried_BD: torch.Tensor, floor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens' rows of the table plus what is carried over, float32, and its norm in the table's dtype; (B, D)."""
    num_sessions, size = carried_BD.shape
    stream_BD = torch.empty(num_sessions, size, dtype=torch.float32, device=carried_BD.device)
    normed_BD = torch.empty_like(carried_BD)
    width = triton.next_power_of_2(size)
    _embed_norm[(num_sessions,)](
        tokens_B, table_VD, carried_BD, stream_BD, normed_BD, floor,
        SIZE=size, WIDTH=width, num_warps=_num_warps(width),
    )  # fmt: skip
    return stream_BD, normed_BD


def add_norm(
    stream_BD: torch.Tensor,
    branch_BD: torch.Tensor,
    branch_weight_D: torch.Tensor,
    floor: float,
    *,
    scale: float = 1.0,
    next_weight_D: torch.Tensor | None = None,
) -> torch.Tensor:
    """Makes the stream (stream + norm(branch) * weight) * scale; returns the norm of that in the branch's dtype."""
    num_sessions, size = stream_BD.shape
    normed_BD = torch.empty_like(branch_BD)
    width = triton.next_power_of_2(size)
    _add_norm[(num_sessions,)](
        stream_BD, branch_BD, branch_weight_D, branch_weight_D if next_weight_D is None else next_weight_D,
        normed_BD, floor, scale,
        SIZE=size, WIDTH=width, HAS_NEXT=next_weight_D is not None, num_warps=_num_warps(width),
    )  # fmt: skip
    return normed_BD


def _num_warps(width: int) -> int:
    return max(1, min(8, width // 256))


@triton.jit
def _embed_norm(tokens, table, carried, stream, normed, floor, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    session = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    mask = column < SIZE
    token = tl.load(tokens + session)
    row = tl.load(table + token * SIZE + column, mask=mask, other=0.0).to(tl.float32)
    row += tl.load(carried + session * SIZE + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(stream + session * SIZE + column, row, mask=mask)
    tl.store(normed + session * SIZE + column, row * tl.rsqrt(tl.sum(row * row, 0) + floor), mask=mask)


@triton.jit
def _add_norm(
    stream, branch, branch_weight, next_weight, normed, floor, scale,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, HAS_NEXT: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * SIZE
    column = tl.arange(0, WIDTH)
    mask = column < SIZE
    added = tl.load(branch + at + column, mask=mask, other=0.0).to(tl.float32)
    added *= tl.rsqrt(tl.sum(added * added, 0) + floor)
    added *= tl.load(branch_weight + column, mask=mask, other=0.0)
    result = (tl.load(stream + at + column, mask=mask, other=0.0) + added) * scale
    tl.store(stream + at + column, result, mask=mask)
    following = result * tl.rsqrt(tl.sum(result * result, 0) + floor)
    if HAS_NEXT:
        following *= tl.load(next_weight + column, mask=mask, other=0.0)
    tl.store(normed + at + column, following, mask=mask)
