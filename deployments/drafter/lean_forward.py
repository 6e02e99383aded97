"""A Gemma 4 assistant's forward pass in plain tensor operations, for one token per session.

At this size the library's layers spend nearly all their time in Python and in norms made of seven
operations. Here everything that is constant is folded once, at load time or at the start of a draft call:

- RMS norm of x is x / sqrt(|x|^2 + D eps) times sqrt(D) weight. The first factor is two small operations
  and a division; the second is folded into the product that follows, or into the rotary tables.
- The product of the token's embedding with its half of `pre_projection` is a table of its own, (V, D)
  instead of (V, H), so the target's embedding is not kept. `post_projection` followed by the other half
  of `pre_projection` is one (D, D) matrix.
- Gate and up projections are one product. Queries of the heads that share a KV head are rows of one
  attention problem, so nothing is repeated.

Sums between layers stay in float32, products run in the weights' dtype.

Shapes: B sessions of a draft batch, H the target's hidden size, V vocabulary, D the assistant's hidden size,
Q query heads, K kv heads, G = Q / K, E head dimension, F feed-forward size, T entries, L layers of one type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextDecoderLayer

from deployments.drafter.assistant_head import AssistantHead
from deployments.drafter.attention_inputs import AttentionInputs, AttentionPart, narrowed
from deployments.drafter.products import Product, product
from deployments.messages import LayerType
from deployments.models.loading import EmbeddingTable

_TABLE_SLICE_ROWS = 8192


@dataclass(frozen=True, slots=True)
class LeanLayer:
    """One decoder layer's weights, norms folded in (see the module's docstring)."""

    layer_type: LayerType
    index_in_type: int
    head_dim: int
    query: Product  # D -> Q E
    output: Product  # Q E -> D
    after_attention_D: torch.Tensor  # float32
    gate_up: Product  # D -> 2 F
    down: Product  # F -> D
    after_mlp_D: torch.Tensor  # float32
    activation: Callable[[torch.Tensor], torch.Tensor]
    scalar: float


@dataclass(frozen=True, slots=True)
class RotaryWeights:
    """What turns normalised queries into rotated ones for all layers of one type: both (L, E), float32."""

    straight_LE: torch.Tensor
    crossed_LE: torch.Tensor


def can_run_lean(assistant: PreTrainedModel) -> bool:
    """Whether every layer of this assistant is of the one class that is rewritten here."""
    return all(type(layer) is Gemma4TextDecoderLayer for layer in assistant.model.layers)


class LeanForward:
    """An AssistantForward; it keeps its own weights and nothing of the embedding table."""

    needs_stack = False

    def __init__(self, assistant: PreTrainedModel, embedding: EmbeddingTable) -> None:
        assert can_run_lean(assistant), "this assistant has layers that only the library can run"
        text_config = assistant.config.get_text_config()
        weight = assistant.pre_projection.weight
        self.dtype: torch.dtype = weight.dtype
        self.layers = _lean_layers(assistant)
        self.rotary_weights = _rotary_weights(assistant)
        self.rotary_emb: nn.Module = assistant.model.rotary_emb
        self.stream_floor = _norm_floor(text_config.hidden_size, text_config.rms_norm_eps, weight.device)
        self.query_floors = {
            layer.layer_type: _norm_floor(layer.head_dim, text_config.rms_norm_eps, weight.device)
            for layer in self.layers
        }
        self.final_norm_D = _scaled(assistant.model.norm)
        self.head = AssistantHead(assistant)
        hidden_size = embedding.weight_VH.shape[1]
        token_half_DH, hidden_half_DH = weight[:, :hidden_size].float(), weight[:, hidden_size:].float()
        self.table_VD = projected_table(embedding, token_half_DH).to(self.dtype)
        self.hidden_half_DH = hidden_half_DH.to(self.dtype)
        self.feedback_DD = (hidden_half_DH @ assistant.post_projection.weight.float()).to(self.dtype)

    @property
    def vocab_size(self) -> int:
        """V: a token that can be drafted from is below it."""
        return len(self.table_VD)

    def start(self, hidden_BH: torch.Tensor, positions_B: torch.Tensor, attention: AttentionInputs) -> LeanSteps:
        """Prepare one draft call."""
        rotary: dict[LayerType, tuple[torch.Tensor, torch.Tensor]] = {}
        like = hidden_BH.new_empty(0, dtype=torch.float32)
        for layer_type, weights in self.rotary_weights.items():
            cos_BE, sin_BE = (table[:, 0] for table in self.rotary_emb(like, positions_B[:, None], layer_type))
            rotary[layer_type] = (cos_BE[:, None] * weights.straight_LE, sin_BE[:, None] * weights.crossed_LE)
        carried_BD = F.linear(hidden_BH.to(self.dtype), self.hidden_half_DH)
        return LeanSteps(self, carried_BD, rotary, attention)


class LeanSteps:
    """DraftSteps that keep the hidden half of the next input, already projected."""

    def __init__(
        self,
        forward: LeanForward,
        carried_BD: torch.Tensor,
        rotary: dict[LayerType, tuple[torch.Tensor, torch.Tensor]],
        attention: AttentionInputs,
    ) -> None:
        self._forward = forward
        self._carried_BD = carried_BD
        self._rotary = rotary
        self._attention = attention

    def step(self, tokens_B: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) of the next token, float32."""
        forward = self._forward
        if len(tokens_B) < len(self._carried_BD):
            self._narrow(len(tokens_B))
        stream_BD = (F.embedding(tokens_B, forward.table_VD) + self._carried_BD).float()
        for layer in forward.layers:
            stream_BD = self._layer(layer, stream_BD)
        state_BD = (_normalised(stream_BD, forward.stream_floor) * forward.final_norm_D).to(forward.dtype)
        self._carried_BD = F.linear(state_BD, forward.feedback_DD)
        return forward.head(state_BD)

    def _layer(self, layer: LeanLayer, stream_BD: torch.Tensor) -> torch.Tensor:
        floor, dtype = self._forward.stream_floor, self._forward.dtype
        normed_BD = _normalised(stream_BD, floor).to(dtype)
        query_BQE = layer.query(normed_BD).view(len(stream_BD), -1, layer.head_dim)
        attended = attend(self._rotated(layer, query_BQE).to(dtype), self._attention[layer.layer_type])
        output_BD = layer.output(attended.view(len(stream_BD), -1))
        stream_BD = torch.addcmul(stream_BD, _normalised(output_BD, floor), layer.after_attention_D)
        normed_BD = _normalised(stream_BD, floor).to(dtype)
        gate_BF, up_BF = layer.gate_up(normed_BD).chunk(2, dim=-1)
        output_BD = layer.down(layer.activation(gate_BF) * up_BF)
        stream_BD = torch.addcmul(stream_BD, _normalised(output_BD, floor), layer.after_mlp_D)
        return stream_BD if layer.scalar == 1.0 else stream_BD * layer.scalar

    def _rotated(self, layer: LeanLayer, query_BQE: torch.Tensor) -> torch.Tensor:
        straight_BLE, crossed_BLE = self._rotary[layer.layer_type]
        index = layer.index_in_type
        normed_BQE = _normalised(query_BQE, self._forward.query_floors[layer.layer_type])
        swapped_BQE = normed_BQE.roll(layer.head_dim // 2, -1)
        return torch.addcmul(normed_BQE * straight_BLE[:, index, None], swapped_BQE, crossed_BLE[:, index, None])

    def _narrow(self, num_rows: int) -> None:
        self._carried_BD = self._carried_BD[:num_rows]
        self._attention = narrowed(self._attention, num_rows)
        self._rotary = {name: (a[:num_rows], b[:num_rows]) for name, (a, b) in self._rotary.items()}


def attend(query_BQE: torch.Tensor, parts: tuple[AttentionPart, ...]) -> torch.Tensor:
    """Attention of one query per session, shape (B, Q, E); scores are not scaled, as Gemma 4 norms its queries."""
    if len(parts) == 1:
        return _attend_part(query_BQE, parts[0])
    return torch.cat([_attend_part(query_BQE[part.first : part.last], part) for part in parts])


def _attend_part(query_BQE: torch.Tensor, part: AttentionPart) -> torch.Tensor:
    rows, num_kv_heads, _, head_dim = part.keys_BHTD.shape
    query_BKGE = query_BQE.view(rows, num_kv_heads, -1, head_dim)
    attended_BKGE = F.scaled_dot_product_attention(
        query_BKGE, part.keys_BHTD, part.values_BHTD, attn_mask=part.mask_B11T, scale=1.0
    )
    return attended_BKGE.reshape(query_BQE.shape)


def _normalised(x: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """x / sqrt(|x|^2 + floor^2) over the last dimension, float32: RMS norm but for the factor sqrt(D)."""
    x = x.float()
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)


def _norm_floor(dim: int, eps: float, device: torch.device) -> torch.Tensor:
    """sqrt(D eps), the length that `_normalised` adds in quadrature."""
    return torch.tensor(math.sqrt(dim * eps), device=device)


def _scaled(norm: nn.Module) -> torch.Tensor:
    """A norm's weight times sqrt(D), float32."""
    weight: torch.Tensor = norm.get_parameter("weight").detach().float()
    return weight * math.sqrt(len(weight))


def _lean_layers(assistant: PreTrainedModel) -> tuple[LeanLayer, ...]:
    counts: dict[LayerType, int] = {}
    layers = []
    for layer in assistant.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        layer_type: LayerType = attention.layer_type
        before_attention, before_mlp = _scaled(layer.input_layernorm), _scaled(layer.pre_feedforward_layernorm)
        dtype = attention.q_proj.weight.dtype
        gate_up = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)).float()
        layers.append(
            LeanLayer(
                layer_type=layer_type,
                index_in_type=counts.get(layer_type, 0),
                head_dim=attention.head_dim,
                query=product((attention.q_proj.weight.float() * before_attention).to(dtype), attention.q_proj.bias),
                output=product(attention.o_proj.weight, attention.o_proj.bias),
                after_attention_D=_scaled(layer.post_attention_layernorm),
                gate_up=product((gate_up * before_mlp).to(dtype)),
                down=product(mlp.down_proj.weight),
                after_mlp_D=_scaled(layer.post_feedforward_layernorm),
                activation=mlp.act_fn,
                scalar=float(layer.layer_scalar),
            )
        )
        counts[layer_type] = counts.get(layer_type, 0) + 1
    return tuple(layers)


def _rotary_weights(assistant: PreTrainedModel) -> dict[LayerType, RotaryWeights]:
    """Fold each layer's query norm into its rotation: w q cos + rotate_half(w q) sin, with w q normalised queries."""
    weights: dict[LayerType, list[torch.Tensor]] = {}
    for layer in assistant.model.layers:
        weights.setdefault(layer.self_attn.layer_type, []).append(_scaled(layer.self_attn.q_norm))
    folded: dict[LayerType, RotaryWeights] = {}
    for layer_type, rows in weights.items():
        straight_LE = torch.stack(rows)
        half = straight_LE.shape[1] // 2
        crossed_LE = straight_LE.roll(half, -1)
        crossed_LE[:, :half].neg_()
        folded[layer_type] = RotaryWeights(straight_LE, crossed_LE)
    return folded


def projected_table(embedding: EmbeddingTable, token_half_DH: torch.Tensor) -> torch.Tensor:
    """The token's half of the first projection for every token, (V, D), in slices to bound what is in memory."""
    slices = torch.split(embedding.weight_VH, _TABLE_SLICE_ROWS)
    dtype = embedding.weight_VH.dtype
    return torch.cat([((rows * embedding.scale).float() @ token_half_DH.T).to(dtype) for rows in slices])
