"""Gemma 4's modules as records for the kernels.

Shapes: P positions, D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextDecoderLayer

from deployments.kernels.packing import Weights, interleaved
from deployments.kernels.structs import Layer

_LANES = 16
_CONSTANT_ROPES = {"default", "linear", "proportional", "yarn", "llama3"}
"""Kinds whose angles depend on the position alone, not on how long the context has become."""


def can_pack(model: PreTrainedModel, decoder: Any) -> bool:
    """Whether every layer is a dense Gemma 4 text layer in float32 on the CPU, of sizes that fill whole vectors."""
    config = decoder.config
    if config.hidden_activation != "gelu_pytorch_tanh" or config.use_bidirectional_attention == "all":
        return False
    if not has_constant_ropes(config):
        return False
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in model.parameters()):
        return False
    return bool(config.hidden_size % _LANES == 0) and all(_is_known(layer) for layer in decoder.layers)


def has_constant_ropes(config: Any) -> bool:
    """Whether the angles of all layers depend on the position alone."""
    return all(not rope or rope["rope_type"] in _CONSTANT_ROPES for rope in config.rope_parameters.values())


def _is_known(layer: Any) -> bool:
    if type(layer) is not Gemma4TextDecoderLayer or layer.enable_moe_block or layer.hidden_size_per_layer_input:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    linears = [attention.q_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    if not attention.is_kv_shared_layer:
        linears += [part for part in (attention.k_proj, attention.v_proj) if part is not None]
    if any(type(linear) is not nn.Linear or linear.bias is not None for linear in linears):
        return False
    has_whole_vectors = attention.head_dim % _LANES == 0 and mlp.down_proj.in_features % _LANES == 0
    return bool(has_whole_vectors and attention.scaling == 1.0)


def pack_layer(weights: Weights, layer: Any) -> Layer:
    """A record of one layer's weights; where its entries and angles are is the caller's to add."""
    attention, mlp = layer.self_attn, layer.mlp
    is_own = not attention.is_kv_shared_layer
    projections = [attention.q_proj]
    if is_own:
        projections += [part for part in (attention.k_proj, attention.v_proj) if part is not None]

    def norm(module: nn.Module) -> int:
        return weights.keep(module.get_parameter("weight").clone())

    return Layer(
        projections=weights.matrix(torch.cat([part.weight for part in projections])),
        output=weights.matrix(attention.o_proj.weight),
        gate_up=weights.matrix(interleaved(mlp.gate_proj.weight, mlp.up_proj.weight)),
        down=weights.matrix(mlp.down_proj.weight),
        before_attention=norm(layer.input_layernorm),
        after_attention=norm(layer.post_attention_layernorm),
        before_mlp=norm(layer.pre_feedforward_layernorm),
        after_mlp=norm(layer.post_feedforward_layernorm),
        query_norm=norm(attention.q_norm),
        key_norm=norm(attention.k_norm) if is_own else None,
        head_dim=attention.head_dim,
        writes_entries=is_own,
        has_value_weights=is_own and attention.v_proj is not None,
        scalar=float(layer.layer_scalar),
    )


@torch.inference_mode()
def rotary_tables(rotary_emb: Any, layer_type: str, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The library's own cosines and sines of every position, each (P, D / 2): the other half repeats them."""
    like = torch.empty(0, dtype=torch.float32)
    cosines_1PD, sines_1PD = rotary_emb(like, torch.arange(num_positions)[None], layer_type)
    half = cosines_1PD.shape[-1] // 2
    return cosines_1PD[0, :, :half].clone(), sines_1PD[0, :, :half].clone()
