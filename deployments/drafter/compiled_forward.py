"""A Gemma 4 assistant through the compiled kernels, on the shadows' own memory: a whole proposal is one call.

Folded as in `lean_forward.py`: a table of projected embeddings, and one matrix from a state to its half of the
next input.

Shapes: B sessions of a draft batch, K drafted tokens, H the target's hidden size, V vocabulary, D the assistant's
hidden size.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from ctypes import CDLL, byref, c_int64, c_void_p, pointer
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextModel

from deployments.decoding.noise import choice_state
from deployments.drafter.attention_inputs import EntryMemory
from deployments.drafter.forward import InPlaceForward, WholeDraft
from deployments.drafter.lean_forward import projected_table
from deployments.kernels.gemma4 import can_pack, pack_layer, rotary_tables
from deployments.kernels.packing import Weights
from deployments.kernels.structs import Draft, Layer, Matrix, Model, Sampling, Step
from deployments.messages import EarlyStop, LayerType, SamplingParams
from deployments.models.loading import EmbeddingTable
from deployments.policy.confidence import NUM_BINS
from deployments.policy.early_stop import next_chances

_KINDS: tuple[LayerType, LayerType] = ("sliding_attention", "full_attention")
_FIRST_POSITIONS = 4096
_NO_ENTRIES = EntryMemory(0, 0, 0, 0)
_NEVER = (float("inf"), 0.0, 0.0, *([1.0] * NUM_BINS))


def can_run_compiled(assistant: PreTrainedModel) -> bool:
    """Whether the kernels know every layer of this assistant, and its head scores the whole vocabulary."""
    decoder: Any = assistant.model
    is_plain = type(decoder) is Gemma4TextModel and not assistant.config.use_ordered_embeddings
    return is_plain and can_pack(assistant, decoder)


class CompiledForward(InPlaceForward):
    """An assistant ready to draft; it keeps packed weights of its own."""

    def __init__(
        self, library: CDLL, assistant: PreTrainedModel, embedding: EmbeddingTable, *, num_threads: int
    ) -> None:
        assert can_run_compiled(assistant), "this assistant has layers that only the library can run"
        self.library = library
        self.hidden_size: int = assistant.config.get_text_config().hidden_size
        self._rotary_emb: Any = assistant.model.rotary_emb
        self._vocab_size = len(embedding.weight_VH)
        self._weights = Weights()
        target_size = embedding.weight_VH.shape[1]
        projection: Any = assistant.pre_projection.weight
        token_half_DH, hidden_half_DH = projection[:, :target_size].float(), projection[:, target_size:].float()
        self.hidden_half: Matrix = self._weights.matrix(hidden_half_DH)
        record = self._model(assistant, projected_table(embedding, token_half_DH))
        record.feedback = self._weights.matrix(hidden_half_DH @ assistant.post_projection.weight.float())
        self._num_positions = 0
        self._reach(_FIRST_POSITIONS)
        self.engine = c_void_p(library.outrider_open(byref(record), c_int64(num_threads)))

    def __del__(self) -> None:
        engine = getattr(self, "engine", None)
        if engine is not None:
            self.library.outrider_close(engine)

    @property
    def vocab_size(self) -> int:
        """V: a token that can be drafted from is below it."""
        return self._vocab_size

    def start(
        self,
        hidden_BH: torch.Tensor,
        tokens: Sequence[int],
        positions: Sequence[int],
        memory: Mapping[LayerType, Sequence[EntryMemory]],
    ) -> CompiledSteps:
        """Prepare one draft call on shadows that stay as they are until it is over."""
        self._reach(max(positions) + 1)
        return CompiledSteps(self, hidden_BH, tokens, positions, memory)

    def _reach(self, num_positions: int) -> None:
        """Have angles for so many positions; the tables double, as contexts of a model's full length are rare."""
        if num_positions <= self._num_positions:
            return
        self._num_positions = max(num_positions, 2 * self._num_positions)
        kinds = {record.kind for record in self._layers}
        self._tables = {kind: rotary_tables(self._rotary_emb, _KINDS[kind], self._num_positions) for kind in kinds}
        for record in self._layers:
            record.cosines, record.sines = (table.data_ptr() for table in self._tables[record.kind])

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
    """InPlaceSteps: one draft call in progress: its state lies in buffers that the kernels update."""

    def __init__(
        self,
        forward: CompiledForward,
        hidden_BH: torch.Tensor,
        tokens: Sequence[int],
        positions: Sequence[int],
        memory: Mapping[LayerType, Sequence[EntryMemory]],
    ) -> None:
        self._forward = forward
        self._tokens = tokens
        num_rows = len(hidden_BH)
        self._carried_BD = torch.empty(num_rows, forward.hidden_size)
        self._states_BD = torch.empty(num_rows, forward.hidden_size)
        forward.library.outrider_product(
            forward.engine,
            byref(forward.hidden_half),
            c_void_p(hidden_BH.data_ptr()),
            c_int64(num_rows),
            c_void_p(self._carried_BD.data_ptr()),
        )
        # The records Chunk and Shadow of decoder.h, four numbers each.
        self._chunks = array("q", [value for row, position in enumerate(positions) for value in (row, 1, position, 0)])
        self._shadows = array("q")
        for row in range(num_rows):
            for kind in _KINDS:
                self._shadows.extend(memory[kind][row] if kind in memory else _NO_ENTRIES)
        self._rows = array("q", range(num_rows))
        self._step = Step(
            chunks=_address(self._chunks),
            rows=_address(self._rows),
            states=self._states_BD.data_ptr(),
            shadows=_address(self._shadows),
            carried=self._carried_BD.data_ptr(),
        )

    def step(self, tokens_B: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) of the token after `tokens_B`, float32; where fewer than before, the last are finished."""
        forward, step, num_rows = self._forward, self._step, len(tokens_B)
        tokens_B = tokens_B.contiguous()
        logits_BV = torch.empty(num_rows, forward.vocab_size)
        step.num_tokens = step.num_chunks = step.num_rows = step.num_logits = num_rows
        step.tokens, step.logits = tokens_B.data_ptr(), logits_BV.data_ptr()
        forward.library.outrider_step(forward.engine, byref(step))
        return logits_BV

    def draw(
        self,
        lookaheads: Sequence[int],
        early_stops: Sequence[EarlyStop | None],
        params: Sequence[SamplingParams],
        positions: Sequence[int],
    ) -> WholeDraft:
        """All steps of the call; see `InPlaceSteps.draw`."""
        num_rows, forward = len(self._tokens), self._forward
        tokens_KB = torch.empty(lookaheads[0], num_rows, dtype=torch.int64)
        confidences_KB = torch.empty(lookaheads[0], num_rows)
        columns = _columns(params)
        numbers = [array("q", values) for values in (self._tokens, lookaheads, positions)]
        states = array("Q", [choice_state(each.seed, each.choice_index) for each in params])
        stops = array("f", [number for each in early_stops for number in _numbers(each)])
        nexts = array("f", [chance for each in early_stops for chance in next_chances(each, lookaheads[0])])
        lengths = array("q", [0] * num_rows)
        self._step.tokens = _address(numbers[0])
        wanted = Draft(
            pointer(self._step),
            _address(numbers[1]),
            _address(states),
            _address(numbers[2]),
            Sampling(*map(_address, columns)),
            num_rows,
            lookaheads[0],
            _address(stops),
            _address(nexts),
            tokens_KB.data_ptr(),
            confidences_KB.data_ptr(),
            _address(lengths),
        )
        forward.library.outrider_draft(forward.engine, byref(wanted))
        return WholeDraft(tokens_KB, confidences_KB, lengths)


def _numbers(early_stop: EarlyStop | None) -> Sequence[float]:
    """The record EarlyStop of draft.h."""
    if early_stop is None:
        return _NEVER
    chances = (chance / 255.0 for chance in early_stop.chances)
    return (early_stop.value, early_stop.token_cost, early_stop.step_cost, *chances)


def _columns(params: Sequence[SamplingParams]) -> list[array[Any]]:
    """What `Sampling` points to, keys left out; nothing where every session is greedy."""
    if not any(each.temperature > 0 for each in params):
        return []
    return [
        array("f", [each.temperature for each in params]),
        array("q", [each.top_k for each in params]),
        array("f", [each.top_p for each in params]),
        array("f", [each.min_p for each in params]),
    ]


def _address(numbers: array[Any]) -> int:
    return numbers.buffer_info()[0]
