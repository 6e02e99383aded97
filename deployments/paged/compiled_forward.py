"""Dense Gemma 4 text layers through the compiled kernels: a whole pass is one call.

The kernels read and write the same pools and block tables as the library's path. Every sum has an order
of its own that no other row, chunk or thread changes, so a position's logits have the same bits however
a context was cut into steps and whatever ran beside it.

Shapes: T packed tokens, R rows that need logits, C chunks, V vocabulary, H hidden size, P positions, D head dimension.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextDecoderLayer, Gemma4TextModel

from deployments.kernels.packing import Weights, interleaved
from deployments.kernels.structs import Layer, Model, Step
from deployments.paged.chunk import Chunk
from deployments.paged.forward import Output, rows_of_interest
from deployments.paged.kv_cache import BlockTables, KvPools

_LANES = 16
_CONSTANT_ROPES = {"default", "linear", "proportional", "yarn", "llama3"}
"""Kinds whose angles depend on the position alone, not on how long the context has become."""


def can_run_compiled(model: PreTrainedModel) -> bool:
    """Whether every layer is a dense Gemma 4 text layer in float32 on the CPU, of sizes that fill whole vectors."""
    decoder: Any = model.get_decoder()
    if type(decoder) is not Gemma4TextModel or type(getattr(model, "lm_head", None)) is not nn.Linear:
        return False
    config = decoder.config
    if config.hidden_activation != "gelu_pytorch_tanh" or config.use_bidirectional_attention == "all":
        return False
    if any(rope and rope["rope_type"] not in _CONSTANT_ROPES for rope in config.rope_parameters.values()):
        return False
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in model.parameters()):
        return False
    return bool(config.hidden_size % _LANES == 0) and all(_is_known(layer) for layer in decoder.layers)


def _is_known(layer: Any) -> bool:
    if type(layer) is not Gemma4TextDecoderLayer or layer.enable_moe_block or layer.hidden_size_per_layer_input:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    if attention.is_kv_shared_layer:
        return False
    linears = [attention.q_proj, attention.k_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    if attention.v_proj is not None:
        linears.append(attention.v_proj)
    if any(type(linear) is not nn.Linear or linear.bias is not None for linear in linears):
        return False
    has_whole_vectors = attention.head_dim % _LANES == 0 and mlp.down_proj.in_features % _LANES == 0
    return bool(has_whole_vectors and attention.scaling == 1.0)


class CompiledForward:
    """A PagedForward that keeps packed weights of its own; the model may go afterwards."""

    def __init__(
        self, library: ctypes.CDLL, model: PreTrainedModel, tables: BlockTables, pools: KvPools, *, num_threads: int
    ) -> None:
        assert can_run_compiled(model), "this model has layers that only the library can run"
        decoder: Any = model.get_decoder()
        self._library = library
        self._tables = tables
        self._pools = pools
        self._vocab_size: int = model.lm_head.out_features
        self._hidden_size: int = decoder.config.hidden_size
        self._weights = Weights()
        self._layers = self._pack_layers(decoder, tables.max_session_tokens)
        record = self._pack_model(model)
        self._engine = ctypes.c_void_p(library.outrider_open(ctypes.byref(record), ctypes.c_int64(num_threads)))

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None:
            self._library.outrider_close(engine)

    def forward(self, chunks: Sequence[Chunk]) -> Output:
        """Run the chunks and write their KV entries; the sessions' computed lengths stay as they are."""
        tables = self._tables
        sizes = [len(chunk.tokens) for chunk in chunks]
        firsts = [0, *accumulate(sizes)]
        rows, partial_rows = rows_of_interest(chunks, firsts[:-1])
        tokens = array("q")
        layout = array("q")
        for chunk, first in zip(chunks, firsts, strict=False):
            tokens.extend(chunk.tokens)
            layout.extend((first, len(chunk.tokens), chunk.start, tables.row(chunk.session)))
        wanted = array("q", rows + partial_rows)
        states = torch.empty(len(wanted), self._hidden_size)
        logits_RV = torch.empty(len(rows), self._vocab_size)
        step = Step(
            tokens.buffer_info()[0],
            len(tokens),
            layout.buffer_info()[0],
            len(chunks),
            tables.blocks_RM.data_ptr(),
            tables.blocks_RM.shape[1],
            tables.block_size,
            wanted.buffer_info()[0],
            len(wanted),
            len(rows),
            states.data_ptr(),
            logits_RV.data_ptr(),
        )
        self._library.outrider_step(self._engine, ctypes.byref(step))
        return Output(logits_RV=logits_RV, hidden_RH=states[: len(rows)], partial_hidden_CH=states[len(rows) :])

    def _pack_model(self, model: PreTrainedModel) -> Model:
        decoder: Any = model.get_decoder()
        config: Any = model.config.get_text_config()
        embedding, is_brain = self._weights.keep_exact(decoder.embed_tokens.weight)
        return Model(
            layers=self._layers,
            num_layers=len(self._layers),
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            head=self._weights.matrix(model.lm_head.weight),
            embedding=embedding,
            embedding_is_brain=is_brain,
            final_norm=self._weights.keep(decoder.norm.weight.clone()),
            embedding_scale=float(decoder.embed_tokens.embed_scale),
            eps=config.rms_norm_eps,
            softcap=config.final_logit_softcapping or 0.0,
        )

    def _pack_layers(self, decoder: Any, num_positions: int) -> ctypes.Array[Layer]:
        keep = self._weights.keep
        rotary = {
            layer_type: [keep(table) for table in rotary_tables(decoder, layer_type, num_positions)]
            for layer_type in set(decoder.config.layer_types)
        }
        records = []
        for index, layer in enumerate(decoder.layers):
            attention = layer.self_attn
            keys_SGD, values_SGD = self._pools.whole(index)
            record = pack_layer(self._weights, layer)
            record.keys, record.values = keys_SGD.data_ptr(), values_SGD.data_ptr()
            record.num_kv_heads = keys_SGD.shape[1]
            record.cosines, record.sines = rotary[attention.layer_type]
            record.window = attention.sliding_window or 0
            records.append(record)
        return (Layer * len(records))(*records)


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
def rotary_tables(decoder: Any, layer_type: str, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The library's own cosines and sines of every position, each (P, D / 2): the other half repeats them."""
    like = torch.empty(0, dtype=torch.float32)
    cosines_1PD, sines_1PD = decoder.rotary_emb(like, torch.arange(num_positions)[None], layer_type)
    half = cosines_1PD.shape[-1] // 2
    return cosines_1PD[0, :, :half].clone(), sines_1PD[0, :, :half].clone()
