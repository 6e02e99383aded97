"""The fused operations equal the plain ones that they stand for."""

from __future__ import annotations

import pytest
import torch

from deployments.cuda.draft_elementwise import add_norm, embed_norm

FLOOR = 0.3


def normed(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().sum(-1, keepdim=True) + FLOOR).sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [24, 256])
def test_embedding_and_norm(size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    table, carried = torch.randn(50, size).to(dtype), torch.randn(3, size).to(dtype)
    tokens = torch.tensor([7, 0, 49])
    stream, first = embed_norm(tokens, table, carried, FLOOR)
    expected = table[tokens].float() + carried.float()
    torch.testing.assert_close(stream, expected)
    torch.testing.assert_close(first, normed(expected).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_next", [False, True])
def test_sum_and_norm(dtype: torch.dtype, has_next: bool) -> None:
    torch.manual_seed(2)
    stream, branch = torch.randn(3, 24), torch.randn(3, 24).to(dtype)
    weight, following = torch.rand(2, 24) + 0.5
    expected = (stream + normed(branch.float()) * weight) * 0.7
    result = add_norm(stream, branch, weight, FLOOR, scale=0.7, next_weight_D=following if has_next else None)
    torch.testing.assert_close(stream, expected)
    torch.testing.assert_close(result, (normed(expected) * (following if has_next else 1.0)).to(dtype))
