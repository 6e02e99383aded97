"""The small kernels of a layer against torch's own operations."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu

from deployments.cuda.elementwise import add_norm, gelu_times, norm_and_rotate, rms_norm

EPS = 1e-6


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def norm(values: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    return torch.rms_norm(values, values.shape[-1:], weight, EPS)


def test_rms_norm() -> None:
    hidden_TH, weight_H = torch.randn(3, 40), torch.randn(40)
    torch.testing.assert_close(rms_norm(hidden_TH, weight_H, EPS), norm(hidden_TH, weight_H))
    torch.testing.assert_close(rms_norm(hidden_TH, None, EPS), norm(hidden_TH))


def test_add_norm() -> None:
    stream_TH, branch_TH = torch.randn(2, 3, 40)
    weight_H, next_weight_H = torch.randn(2, 40)
    added_TH = (stream_TH + norm(branch_TH, weight_H)) * 0.5
    output_TH, normed_TH = add_norm(stream_TH, branch_TH, weight_H, EPS, scale=0.5, next_weight_H=next_weight_H)
    torch.testing.assert_close(output_TH, added_TH)
    torch.testing.assert_close(normed_TH, norm(added_TH, next_weight_H))
    torch.testing.assert_close(add_norm(stream_TH, branch_TH, weight_H, EPS, scale=0.5)[0], added_TH)


def test_gelu_times() -> None:
    gate_TF, up_TF = torch.randn(2, 3, 1500)
    expected_TF = gelu(gate_TF, approximate="tanh") * up_TF
    torch.testing.assert_close(gelu_times(torch.cat((gate_TF, up_TF), 1)), expected_TF)


@pytest.mark.parametrize("shares_keys", [False, True])
@pytest.mark.parametrize("has_keys", [True, False])
def test_queries_are_returned_and_entries_written(shares_keys: bool, has_keys: bool) -> None:
    num_heads, num_kv_heads, dim, num_tokens = 4, 2, 12, 5
    query_weight_D, key_weight_D = torch.randn(2, dim)
    cosines_TD, sines_TD = torch.randn(2, num_tokens, dim)
    slots_T = torch.tensor([3, 7, -1, 9, 20])
    queries_TQD = torch.randn(num_tokens, num_heads, dim)
    keys_TGD, values_TGD = torch.randn(2, num_tokens, num_kv_heads, dim)
    parts = [queries_TQD, *([keys_TGD] if has_keys else []), *([values_TGD] if has_keys and not shares_keys else [])]
    pools = torch.zeros(40, num_kv_heads, dim), torch.zeros(40, num_kv_heads, dim)

    def rotated(heads_TND: torch.Tensor) -> torch.Tensor:
        low, high = heads_TND.chunk(2, -1)
        return heads_TND * cosines_TD[:, None] + torch.cat((-high, low), -1) * sines_TD[:, None]

    found_TQD = norm_and_rotate(
        torch.cat(parts, 1).flatten(1), query_weight_D, key_weight_D if has_keys else None, cosines_TD, sines_TD,
        slots_T, pools, num_heads=num_heads, shares_keys=shares_keys, eps=EPS,
    )  # fmt: skip

    torch.testing.assert_close(found_TQD, rotated(norm(queries_TQD, query_weight_D)))
    expected = torch.zeros(2, 40, num_kv_heads, dim)
    if has_keys:
        is_written = slots_T >= 0
        slots = slots_T[is_written]
        expected[0, slots] = rotated(norm(keys_TGD, key_weight_D))[is_written]
        expected[1, slots] = norm(keys_TGD if shares_keys else values_TGD)[is_written]
    torch.testing.assert_close(torch.stack(pools), expected)
