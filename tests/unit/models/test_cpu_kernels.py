"""Swapped layers compute what they stand in for, and only where they may."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Gemma4ForCausalLM
from transformers.models.gemma4.modeling_gemma4 import Gemma4RMSNorm

from deployments.models.cpu_kernels import FusedRmsNorm, PackedLinear, use_cpu_kernels
from tests.support.tiny_models import tiny_config


@pytest.mark.parametrize("num_rows", [1, 5, 40])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_packed_layer_is_the_linear_layer(num_rows: int, has_bias: bool) -> None:
    torch.manual_seed(0)
    linear, inputs = nn.Linear(48, 80, bias=has_bias), torch.randn(1, num_rows, 48)
    with torch.inference_mode():
        assert torch.allclose(PackedLinear(linear)(inputs), linear(inputs), atol=1e-5)


@pytest.mark.parametrize("with_scale", [False, True])
def test_a_fused_norm_is_the_librarys(with_scale: bool) -> None:
    torch.manual_seed(0)
    norm, hidden = Gemma4RMSNorm(64, with_scale=with_scale), torch.randn(1, 7, 4, 64) * 3
    with torch.inference_mode():
        if with_scale:
            norm.weight.normal_()
        assert torch.allclose(FusedRmsNorm(norm)(hidden), norm(hidden), atol=1e-6)


def test_what_is_kept_stays_and_other_dtypes_stay_whole() -> None:
    model = Gemma4ForCausalLM(tiny_config()).eval().requires_grad_(False)
    ids = torch.tensor([[3, 4, 5]])
    before = model(ids).logits
    assert use_cpu_kernels(model, keep={"lm_head"}) > 0
    assert isinstance(model.lm_head, nn.Linear)
    assert isinstance(model.model.layers[0].mlp.up_proj, PackedLinear)
    assert torch.allclose(model(ids).logits, before, atol=1e-4)
    assert use_cpu_kernels(Gemma4ForCausalLM(tiny_config()).to(torch.bfloat16)) == 0
