"""The experts' kernels against each pair written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import gelu

from deployments.cuda.experts import apply_experts, route


def test_the_likeliest_experts_share_a_weight_of_one() -> None:
    torch.manual_seed(0)
    logits_TE, scales_E = torch.randn(5, 12), torch.rand(12)
    logits_TE[0, [3, 7]] = 9.0  # equals: the lower number first
    chosen_TK, weights_TK = route(logits_TE, scales_E, 3)
    expected = torch.sort(logits_TE.softmax(-1), dim=-1, descending=True, stable=True)
    assert chosen_TK.tolist() == expected.indices[:, :3].tolist()
    shares_TK = expected.values[:, :3] / expected.values[:, :3].sum(-1, keepdim=True)
    torch.testing.assert_close(weights_TK, shares_TK * scales_E[chosen_TK])


@pytest.mark.parametrize("num_tokens", [1, 2, 10, 40])
def test_each_token_gets_the_sum_of_its_experts(num_tokens: int) -> None:
    """Few pairs stand alone; of many some share an expert, some experts have more than a program takes at a time."""
    torch.manual_seed(num_tokens)
    num_experts, hidden_size, inner_size = 4, 40, 24
    hidden_TH = torch.randn(num_tokens, hidden_size)
    gate_up_E2FH = 0.2 * torch.randn(num_experts, 2 * inner_size, hidden_size)
    down_EHF = torch.randn(num_experts, hidden_size, inner_size)
    logits_TE = torch.randn(num_tokens, num_experts)
    logits_TE[:, 2] += 2.0
    chosen_TK, weights_TK = route(logits_TE, torch.ones(num_experts), 2)
    expected_TH = torch.zeros_like(hidden_TH)
    for token in range(num_tokens):
        for expert, weight in zip(chosen_TK[token].tolist(), weights_TK[token], strict=True):
            gate_F, up_F = (gate_up_E2FH[expert] @ hidden_TH[token]).chunk(2)
            expected_TH[token] += weight * (down_EHF[expert] @ (gelu(gate_F, approximate="tanh") * up_F))
    found_TH = apply_experts(hidden_TH, chosen_TK, weights_TK, gate_up_E2FH, down_EHF)
    torch.testing.assert_close(found_TH, expected_TH, atol=1e-4, rtol=1e-4)
