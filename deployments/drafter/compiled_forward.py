"""A Gemma 4 assistant through the compiled kernels: a drafted token is one call, on the shadows' own memory.

Folded as in `lean_forward.py`: a table of projected embeddings, and one matrix from a state to its half of the
next input.

Shapes: B sessions of a draft batch, H the target's hidden size, V vocabulary, D the assistant's hidden size,
E head dimension.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextModel

from deployments.drafter.attention_inputs import AttentionInputs
from deployments.drafter.lean_forward import projected_table
from deployments.kernels.gemma4 import can_pack, pack_layer
from deployments.kernels.packing import Weights
from deployments.kernels.structs import Angles, Layer, Matrix, Model, Shadow, Step
from deployments.messages import LayerType
from deployments.models.loading import EmbeddingTable

_KINDS: tuple[LayerType, LayerType] = ("sliding_attention", "full_attention")


def can_run_compiled(assistant: PreTrainedModel) -> bool:
    """Whether the kernels know every layer of this assistant, and its head scores the whole vocabulary."""
    decoder: Any = assistant.model
    is_plain = type(decoder) is Gemma4TextModel and not assistant.config.use_ordered_embeddings
    return is_plain and can_pack(assistant, decoder)


class CompiledForward:
    """An AssistantForward that keeps packed weights of its own."""

    needs_stack = False
    reads_in_place = True

    def __init__(
        self, library: ctypes.CDLL, assistant: PreTrainedModel, embedding: EmbeddingTable, *, num_threads: int
    ) -> None:
        assert can_run_compiled(assistant), "this assistant has layers that only the library can run"
        self.library = library
        self.rotary_emb: Any = assistant.model.rotary_emb
        self.hidden_size: int = assistant.config.get_text_config().hidden_size
        self._vocab_size = len(embedding.weight_VH)
        self._weights = Weights()
        target_size = embedding.weight_VH.shape[1]
        projection: Any = assistant.pre_projection.weight
        token_half_DH, hidden_half_DH = projection[:, :target_size].float(), projection[:, target_size:].float()
        self.hidden_half: Matrix = self._weights.matrix(hidden_half_DH)
        record = self._model(assistant, projected_table(embedding, token_half_DH))
        record.feedback = self._weights.matrix(hidden_half_DH @ assistant.post_projection.weight.float())
        self.engine = ctypes.c_void_p(library.outrider_open(ctypes.byref(record), ctypes.c_int64(num_threads)))

    def __del__(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None:
            self.library.outrider_close(engine)

    @property
    def vocab_size(self) -> int:
        """V: a token that can be drafted from is below it."""
        return self._vocab_size

    def start(self, hidden_BH: torch.Tensor, positions_B: torch.Tensor, attention: AttentionInputs) -> CompiledSteps:
        """Prepare one draft call."""
        return CompiledSteps(self, hidden_BH, positions_B, attention)

    def _model(self, assistant: PreTrainedModel, table_VD: torch.Tensor) -> Model:
        config: Any = assistant.config.get_text_config()
        decoder: Any = assistant.model
        layers = []
        for layer in decoder.layers:
            record = pack_layer(self._weights, layer)
            record.kind = _KINDS.index(layer.self_attn.layer_type)
            record.num_kv_heads = config.num_attention_heads // layer.self_attn.num_key_value_groups
            layers.append(record)
        self._layers = (Layer * len(layers))(*layers)
        return Model(
            layers=self._layers,
            num_layers=len(layers),
            hidden_size=config.hidden_size,
            num_heads=config.num_attention_heads,
            head=self._weights.matrix(assistant.lm_head.weight),
            embedding=self._weights.keep(table_VD),
            embedding_is_brain=False,
            final_norm=self._weights.keep(decoder.norm.weight.clone()),
            embedding_scale=1.0,
            eps=config.rms_norm_eps,
            softcap=config.final_logit_softcapping or 0.0,
        )


class CompiledSteps:
    """DraftSteps whose state lies in buffers that the kernels update."""

    def __init__(
        self,
        forward: CompiledForward,
        hidden_BH: torch.Tensor,
        positions_B: torch.Tensor,
        attention: AttentionInputs,
    ) -> None:
        self._forward = forward
        num_rows = len(hidden_BH)
        hidden_BH = hidden_BH.contiguous()
        self._carried_BD = torch.empty(num_rows, forward.hidden_size)
        self._states_BD = torch.empty(num_rows, forward.hidden_size)
        forward.library.outrider_product(
            forward.engine,
            ctypes.byref(forward.hidden_half),
            ctypes.c_void_p(hidden_BH.data_ptr()),
            ctypes.c_int64(num_rows),
            ctypes.c_void_p(self._carried_BD.data_ptr()),
        )
        self._attention = attention  # the shadows stay as they are until the call is over
        self._shadows = _shadows(attention, num_rows)
        self._angles = self._rotary(positions_B)
        chunks = [value for row, position in enumerate(positions_B.tolist()) for value in (row, 1, position, 0)]
        self._chunks_B4 = torch.tensor(chunks)
        self._rows_B = torch.arange(num_rows)
        self._step = Step(
            chunks=self._chunks_B4.data_ptr(),
            rows=self._rows_B.data_ptr(),
            states=self._states_BD.data_ptr(),
            shadows=ctypes.addressof(self._shadows),
            angles=ctypes.addressof(self._angles),
            carried=self._carried_BD.data_ptr(),
        )

    def step(self, tokens_B: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) of the next token, float32."""
        forward, step, num_rows = self._forward, self._step, len(tokens_B)
        tokens_B = tokens_B.contiguous()
        logits_BV = torch.empty(num_rows, forward.vocab_size)
        step.num_tokens = step.num_chunks = step.num_rows = step.num_logits = num_rows
        step.tokens, step.logits = tokens_B.data_ptr(), logits_BV.data_ptr()
        forward.library.outrider_step(forward.engine, ctypes.byref(step))
        return logits_BV

    def _rotary(self, positions_B: torch.Tensor) -> ctypes.Array[Angles]:
        """Cosines and sines of the queries' positions, by layer type."""
        self._tables = []
        angles = (Angles * len(_KINDS))()
        like = torch.empty(0, dtype=torch.float32)
        for kind, layer_type in enumerate(_KINDS):
            if layer_type not in self._attention:
                continue
            tables = [table[0] for table in self._forward.rotary_emb(like, positions_B[None], layer_type)]
            halves = [table_BE[:, : table_BE.shape[1] // 2].contiguous() for table_BE in tables]
            self._tables += halves
            angles[kind] = Angles(halves[0].data_ptr(), halves[1].data_ptr())
        return angles


def _shadows(attention: AttentionInputs, num_rows: int) -> ctypes.Array[Shadow]:
    """One record per session and kind, on the memory of the session's own part."""
    records = (Shadow * (num_rows * len(_KINDS)))()
    for kind, layer_type in enumerate(_KINDS):
        for row, part in enumerate(attention.get(layer_type, ())):
            keys_1HTD, values_1HTD = part.keys_BHTD, part.values_BHTD
            assert keys_1HTD.stride() == values_1HTD.stride()
            assert keys_1HTD.stride(2) == keys_1HTD.shape[3], "entries of a head lie side by side"
            records[row * len(_KINDS) + kind] = Shadow(
                keys_1HTD.data_ptr(), values_1HTD.data_ptr(), keys_1HTD.stride(1), keys_1HTD.shape[2]
            )
    return records
