"""Gemma 4's decoder layers over a paged cache on a GPU: the library's model around them stays as it is.

A layer is two or three products and one kernel between each two of them: projections of queries, keys and values are
one product, gate and up another. Per-layer inputs run as the library has them. Of a target in shares, each rank has its
part of the heads and of the inner widths, by the library's own plan, and what leaves a block is summed over the ranks.

Shapes: T packed tokens, H hidden size, D head dimension, S slots, G kv heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from deployments.cuda.attention import Paging, attend
from deployments.cuda.elementwise import add_norm, gelu_times, norm_and_rotate, rms_norm
from deployments.cuda.experts import apply_experts, route

Pools = tuple[torch.Tensor, torch.Tensor]
Total = Callable[[torch.Tensor], torch.Tensor]
"""From what one rank makes of a block to what all do."""

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


def local(parameter: torch.Tensor) -> torch.Tensor:
    """What lies here of a weight that may be in shares."""
    whole: torch.Tensor = parameter.detach()
    return whole.to_local() if isinstance(whole, DTensor) else whole


def _summed_over_ranks(part: torch.Tensor) -> torch.Tensor:
    torch.distributed.all_reduce(part)
    return part


def _as_it_is(part: torch.Tensor) -> torch.Tensor:
    return part


def fuse(model: PreTrainedModel, pools: Callable[[int], Pools], *, num_ranks: int = 1) -> None:
    """Put fused layers in the place of the model's own, layer by layer, so that no weight is held twice for long.

    `pools(i)` are keys and values of layer i's cache, each of shape (S, G, D). The model runs by
    `decoder(..., layout=Layout(...))` afterwards, and cannot be saved or trained. With `num_ranks` above 1 the model is
    a share: every rank of the process group runs every pass.
    """
    total = _summed_over_ranks if num_ranks > 1 else _as_it_is
    decoder: Any = model.get_decoder()
    config: Any = model.config.get_text_config()
    num_own = config.num_hidden_layers - (getattr(config, "num_kv_shared_layers", 0) or 0)
    last_own: Mapping[str, int] = {kind: index for index, kind in enumerate(config.layer_types[:num_own])}
    for index, kind in enumerate(config.layer_types):
        source = index if index < num_own else last_own[kind]
        decoder.layers[index] = FusedLayer(decoder.layers[index], pools(source), total)
    for name, module in list(decoder.named_modules()):
        if type(module).__name__ in _NORMS:
            parent, _, attribute = name.rpartition(".")
            setattr(decoder.get_submodule(parent), attribute, FusedNorm(module))


class FusedNorm(nn.Module):
    """A Gemma 4 RMS norm as one kernel."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.eps: float = norm.eps
        self.scale_H: torch.Tensor | None = local(norm.weight) if norm.with_scale else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scale the last dimension to unit mean square, then by the weight."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        return rms_norm(rows.contiguous(), self.scale_H, self.eps).view(hidden.shape)


class FusedLayer(nn.Module):
    """A decoder layer. It keeps the weights of the library's layer, which may go afterwards."""

    def __init__(self, layer: Any, pools: Pools, total: Total) -> None:
        super().__init__()
        self._total = total
        self._attention = _Attention(layer.self_attn, pools, total)
        self._gate_up = torch.cat((local(layer.mlp.gate_proj.weight), local(layer.mlp.up_proj.weight)))
        self._down = local(layer.mlp.down_proj.weight)
        self._eps: float = layer.input_layernorm.eps
        self._before_attention = local(layer.input_layernorm.weight)
        self._after_attention = local(layer.post_attention_layernorm.weight)
        self._before_mlp = local(layer.pre_feedforward_layernorm.weight)
        self._after_mlp = local(layer.post_feedforward_layernorm.weight)
        self._scalar = float(local(layer.layer_scalar))
        self._experts = _Experts(layer, total) if getattr(layer, "enable_moe_block", False) else None
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
        branch_TH = self._total(F.linear(gelu_times(F.linear(normed_TH, self._gate_up)), self._down))
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
    def __init__(self, attention: Any, pools: Pools, total: Total) -> None:
        super().__init__()
        self._total = total
        self._pools = pools
        self._is_sliding = bool(attention.is_sliding)
        self._window: int | None = attention.sliding_window
        self._scaling: float = attention.scaling
        self._eps: float = attention.q_norm.eps
        self._query_norm = local(attention.q_norm.weight)
        self._key_norm: torch.Tensor | None = None
        projections = [local(attention.q_proj.weight)]
        self._num_heads = len(projections[0]) // attention.head_dim
        if not attention.is_kv_shared_layer:
            self._key_norm = local(attention.k_norm.weight)
            projections.append(local(attention.k_proj.weight))
        self._shares_keys = attention.is_kv_shared_layer or attention.v_proj is None
        if not self._shares_keys:
            projections.append(local(attention.v_proj.weight))
        self._projections = torch.cat(projections)
        self._output = local(attention.o_proj.weight)

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
        return self._total(F.linear(attended_TQD.flatten(1), self._output))


class _Experts(nn.Module):
    """What a mixture of experts adds to the dense branch."""

    def __init__(self, layer: Any, total: Total) -> None:
        super().__init__()
        self._total = total
        router, experts = layer.router, layer.experts
        self._eps: float = router.norm.eps
        self._before_router = local(router.scale) * router.scalar_root_size
        self._router = local(router.proj.weight)
        self._scales = local(router.per_expert_scale)
        self._num_chosen: int = router.config.top_k_experts
        self._gate_up, self._down = local(experts.gate_up_proj), local(experts.down_proj)
        self._before = local(layer.pre_feedforward_layernorm_2.weight)
        self._after_dense = local(layer.post_feedforward_layernorm_1.weight)
        self._after_experts = local(layer.post_feedforward_layernorm_2.weight)

    def forward(self, stream_TH: torch.Tensor, dense_TH: torch.Tensor) -> torch.Tensor:
        logits_TE = F.linear(rms_norm(stream_TH, self._before_router, self._eps), self._router)
        chosen_TK, weights_TK = route(logits_TE, self._scales, self._num_chosen)
        normed_TH = rms_norm(stream_TH, self._before, self._eps)
        branch_TH = self._total(apply_experts(normed_TH, chosen_TK, weights_TK, self._gate_up, self._down))
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
