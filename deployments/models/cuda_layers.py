"""Gemma 4's decoder layers over a paged cache on a GPU: the library's model around them stays as it is.

A layer is two or three products and one kernel between each two of them: projections of queries, keys and values are
one product, gate and up another. Per-layer inputs run as the library has them.

Shapes: T packed tokens, H hidden size, D head dimension, S slots, G kv heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from deployments.cuda.attention import Paging, attend
from deployments.cuda.elementwise import add_norm, gelu_times, norm_and_rotate, rms_norm
from deployments.cuda.experts import apply_experts, route

Pools = tuple[torch.Tensor, torch.Tensor]

_NORMS = ("Gemma4RMSNorm", "Gemma4UnifiedRMSNorm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a step's tokens write their entries, and where they find their session's: by kind of layer.

    Slots have shape (T,); a negative one is written nothing to.
    """

    slots_T: torch.Tensor
    paging: Paging
    sliding_slots_T: torch.Tensor
    sliding_paging: Paging


def fuse(model: PreTrainedModel, pools: Callable[[int], Pools]) -> None:
    """Put fused layers in the place of the model's own, layer by layer, so that no weight is held twice for long.

    `pools(i)` are keys and values of layer i's cache, each of shape (S, G, D). The model runs by
    `decoder(..., layout=Layout(...))` afterwards, and cannot be saved or trained.
    """
    decoder: Any = model.get_decoder()
    config: Any = model.config.get_text_config()
    num_own = config.num_hidden_layers - (getattr(config, "num_kv_shared_layers", 0) or 0)
    last_own: Mapping[str, int] = {kind: index for index, kind in enumerate(config.layer_types[:num_own])}
    for index, kind in enumerate(config.layer_types):
        decoder.layers[index] = FusedLayer(decoder.layers[index], pools(index if index < num_own else last_own[kind]))
    for name, module in list(decoder.named_modules()):
        if type(module).__name__ in _NORMS:
            parent, _, attribute = name.rpartition(".")
            setattr(decoder.get_submodule(parent), attribute, FusedNorm(module))


class FusedNorm(nn.Module):
    """A Gemma 4 RMS norm as one kernel."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.eps: float = norm.eps
        self.scale_H: torch.Tensor | None = norm.weight.detach() if norm.with_scale else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scale the last dimension to unit mean square, then by the weight."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        return rms_norm(rows.contiguous(), self.scale_H, self.eps).view(hidden.shape)


class FusedLayer(nn.Module):
    """A decoder layer. It keeps the weights of the library's layer, which may go afterwards."""

    def __init__(self, layer: Any, pools: Pools) -> None:
        super().__init__()
        self._attention = _Attention(layer.self_attn, pools)
        self._gate_up = torch.cat((layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight)).detach()
        self._down = layer.mlp.down_proj.weight.detach()
        self._eps: float = layer.input_layernorm.eps
        self._before_attention = layer.input_layernorm.weight.detach()
        self._after_attention = layer.post_attention_layernorm.weight.detach()
        self._before_mlp = layer.pre_feedforward_layernorm.weight.detach()
        self._after_mlp = layer.post_feedforward_layernorm.weight.detach()
        self._scalar = float(layer.layer_scalar)
        self._experts = _Experts(layer) if getattr(layer, "enable_moe_block", False) else None
        self._per_layer = _PerLayerInput(layer) if getattr(layer, "hidden_size_per_layer_input", 0) else None

    def forward(
        self,
        hidden_1TH: torch.Tensor,
        per_layer_input: torch.Tensor | None = None,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        layout: Layout,
        **_: object,
    ) -> torch.Tensor:
        """The stream after this layer, shape (1, T, H); the new entries are in the cache."""
        stream_TH = hidden_1TH[0]
        eps = self._eps
        normed_TH = rms_norm(stream_TH, self._before_attention, eps)
        attended_TH = self._attention(normed_TH, position_embeddings, layout)
        stream_TH, normed_TH = add_norm(
            stream_TH, attended_TH, self._after_attention, eps, next_weight_H=self._before_mlp
        )
        branch_TH = F.linear(gelu_times(F.linear(normed_TH, self._gate_up)), self._down)
        if self._experts is not None:
            branch_TH = self._experts(stream_TH, branch_TH)
        is_last = self._per_layer is None
        stream_TH, _normed = add_norm(
            stream_TH, branch_TH, self._after_mlp, eps, scale=self._scalar if is_last else 1.0
        )
        if self._per_layer is not None:
            assert per_layer_input is not None, "this model's layers have inputs of their own"
            stream_TH = self._per_layer(stream_TH, per_layer_input[0]) * self._scalar
        return stream_TH[None]


class _Attention(nn.Module):
    def __init__(self, attention: Any, pools: Pools) -> None:
        super().__init__()
        self._pools = pools
        self._is_sliding = bool(attention.is_sliding)
        self._window: int | None = attention.sliding_window
        self._scaling: float = attention.scaling
        self._eps: float = attention.q_norm.eps
        self._query_norm = attention.q_norm.weight.detach()
        self._key_norm: torch.Tensor | None = None
        self._num_heads = attention.q_proj.out_features // attention.head_dim
        projections = [attention.q_proj.weight]
        if not attention.is_kv_shared_layer:
            self._key_norm = attention.k_norm.weight.detach()
            projections.append(attention.k_proj.weight)
        self._shares_keys = attention.is_kv_shared_layer or attention.v_proj is None
        if not self._shares_keys:
            projections.append(attention.v_proj.weight)
        self._projections = torch.cat(projections).detach()
        self._output = attention.o_proj.weight.detach()

    def forward(
        self, normed_TH: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], layout: Layout
    ) -> torch.Tensor:
        cosines_1TD, sines_1TD = position_embeddings
        queries_TQD = norm_and_rotate(
            F.linear(normed_TH, self._projections),
            self._query_norm,
            self._key_norm,
            cosines_1TD[0].contiguous(),
            sines_1TD[0].contiguous(),
            layout.sliding_slots_T if self._is_sliding else layout.slots_T,
            self._pools,
            num_heads=self._num_heads,
            shares_keys=self._shares_keys,
            eps=self._eps,
        )
        attended_TQD = attend(
            queries_TQD,
            *self._pools,
            layout.sliding_paging if self._is_sliding else layout.paging,
            window=self._window,
            scaling=self._scaling,
        )
        return F.linear(attended_TQD.flatten(1), self._output)


class _Experts(nn.Module):
    """What a mixture of experts adds to the dense branch."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        router, experts = layer.router, layer.experts
        self._eps: float = router.norm.eps
        self._before_router = (router.scale * router.scalar_root_size).detach()
        self._router = router.proj.weight.detach()
        self._scales = router.per_expert_scale.detach()
        self._num_chosen: int = router.config.top_k_experts
        self._gate_up, self._down = experts.gate_up_proj.detach(), experts.down_proj.detach()
        self._before = layer.pre_feedforward_layernorm_2.weight.detach()
        self._after_dense = layer.post_feedforward_layernorm_1.weight.detach()
        self._after_experts = layer.post_feedforward_layernorm_2.weight.detach()

    def forward(self, stream_TH: torch.Tensor, dense_TH: torch.Tensor) -> torch.Tensor:
        logits_TE = F.linear(rms_norm(stream_TH, self._before_router, self._eps), self._router)
        chosen_TK, weights_TK = route(logits_TE, self._scales, self._num_chosen)
        normed_TH = rms_norm(stream_TH, self._before, self._eps)
        branch_TH = apply_experts(normed_TH, chosen_TK, weights_TK, self._gate_up, self._down)
        dense_TH = rms_norm(dense_TH, self._after_dense, self._eps)
        output_TH, _ = add_norm(dense_TH, branch_TH, self._after_experts, self._eps)
        return output_TH


class _PerLayerInput(nn.Module):
    """The residual of a layer's own embedding of each token, as the library has it."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.gate, self.activation = layer.per_layer_input_gate, layer.act_fn
        self.projection, self.norm = layer.per_layer_projection, layer.post_per_layer_input_norm

    def forward(self, stream_TH: torch.Tensor, input_TP: torch.Tensor) -> torch.Tensor:
        gated = self.activation(self.gate(stream_TH)) * input_TP
        output: torch.Tensor = stream_TH + self.norm(self.projection(gated))
        return output
