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
from ctypes import byref, c_int64, c_void_p
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextModel

from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import Choice, choose
from deployments.kernels.gemma4 import can_pack, pack_layer, rotary_tables
from deployments.kernels.packing import Weights
from deployments.kernels.structs import Layer, Model, Sampling, Step
from deployments.paged.chunk import Chunk
from deployments.paged.forward import Output, rows_of_interest, scored_rows
from deployments.paged.kv_cache import BlockTables, KvPools


def can_run_compiled(model: PreTrainedModel) -> bool:
    """Whether the kernels know every layer of this model, and every layer keeps entries of its own."""
    decoder: Any = model.get_decoder()
    if type(decoder) is not Gemma4TextModel or type(getattr(model, "lm_head", None)) is not nn.Linear:
        return False
    return can_pack(model, decoder) and not any(layer.self_attn.is_kv_shared_layer for layer in decoder.layers)


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
        self._engine = c_void_p(library.outrider_open(byref(record), c_int64(num_threads)))

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
        num_deciding = len(rows)
        rows += scored_rows(chunks, firsts[:-1])
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
            (tables.blocks_RM if tables.sliding is None else tables.sliding.blocks_RM).data_ptr(),
            tables.blocks_RM.shape[1],
            tables.block_size,
            wanted.buffer_info()[0],
            len(wanted),
            len(rows),
            states.data_ptr(),
            logits_RV.data_ptr(),
        )
        self._library.outrider_step(self._engine, byref(step))
        return Output(
            logits_RV=logits_RV[:num_deciding],
            hidden_RH=states[:num_deciding],
            partial_hidden_CH=states[len(rows) :],
            scored_RV=logits_RV[num_deciding:],
        )

    def choose(self, logits_RV: torch.Tensor, rows: SamplingRows, *, with_confidences: bool = True) -> Choice:
        """As `decoding.sampling.choose`, a row to a thread; logits that are not plain float32 rows go there."""
        if logits_RV.dtype is not torch.float32 or not logits_RV.is_contiguous():
            return choose(logits_RV, rows, with_confidences=with_confidences)
        num_rows, size = logits_RV.shape
        columns = [
            column.contiguous() for column in (rows.temperature_R, rows.top_k_R, rows.top_p_R, rows.min_p_R, rows.key_R)
        ]
        sampling = Sampling() if rows.is_all_greedy else Sampling(*(column.data_ptr() for column in columns))
        tokens_R = torch.empty(num_rows, dtype=torch.int64)
        confidences_R = torch.empty(num_rows if with_confidences else 0)
        self._library.outrider_choose(
            self._engine,
            c_void_p(logits_RV.data_ptr()),
            c_int64(num_rows),
            c_int64(size),
            byref(sampling),
            c_void_p(tokens_R.data_ptr()),
            c_void_p(confidences_R.data_ptr() if with_confidences else None),
        )
        return Choice(tokens_R, confidences_R)

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
            layer_type: [keep(table) for table in rotary_tables(decoder.rotary_emb, layer_type, num_positions)]
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
