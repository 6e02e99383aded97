"""A Gemma 4 assistant on a GPU: shadows are read where they lie, and a drafted token's forward pass is one graph.

Folded as in `lean_forward.py`. What a draft call brings goes up in one copy: first tokens, positions, places of the
entries, hidden states. Then everything stays on the device until all tokens are drawn; the graphs of all batch sizes
work on the same buffers, so a call goes on with a smaller graph when sessions are finished.

Shapes: B sessions of a draft batch, padded to a graph's size; K drafted tokens, H the target's hidden size, V
vocabulary, D the assistant's hidden size, E head dimension, R rows of the buffers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from deployments.cuda.draft_attention import Places, QueryTurn, attend, num_splits
from deployments.cuda.draft_elementwise import add_norm, embed_norm
from deployments.cuda.elementwise import gelu_times
from deployments.cuda.graphs import Graph
from deployments.decoding.cuda_choose import choose
from deployments.decoding.rows import SamplingRows
from deployments.drafter.attention_inputs import EntryMemory
from deployments.drafter.forward import InPlaceForward, WholeDraft
from deployments.drafter.lean_forward import LeanForward, LeanLayer, can_run_lean
from deployments.kernels.gemma4 import has_constant_ropes
from deployments.messages import EarlyStop, LayerType, SamplingParams
from deployments.models.loading import EmbeddingTable
from deployments.policy.early_stop import Drafting

logger = logging.getLogger(__name__)

GRAPH_SIZES = (1, 2, 4, 8, 16, 32, 64)
"""A batch runs on the smallest that holds it; a larger one runs the same operations one by one."""


def can_run_graphed(assistant: PreTrainedModel) -> bool:
    """Whether every layer is of the class that is rewritten, and angles depend on the position alone."""
    return can_run_lean(assistant) and has_constant_ropes(assistant.config.get_text_config())


class GraphedForward(InPlaceForward):
    """An assistant ready to draft; it keeps its own weights and nothing of the embedding table.

    `capture=False` runs the same operations one by one, which any device can that Triton knows. One draft call at a
    time: its steps are over when the next one starts.
    """

    def __init__(
        self,
        assistant: PreTrainedModel,
        embedding: EmbeddingTable,
        *,
        sizes: Sequence[int] = GRAPH_SIZES,
        capture: bool = True,
    ) -> None:
        assert can_run_graphed(assistant), "this assistant has layers that only the library can run"
        text_config = assistant.config.get_text_config()
        self.lean = LeanForward(assistant, embedding)
        self.device: torch.device = self.lean.table_VD.device
        self.target_size: int = embedding.weight_VH.shape[1]
        self.sliding_window: int = text_config.sliding_window
        self.num_heads: int = text_config.num_attention_heads
        self.num_kv_heads: dict[LayerType, int] = {
            layer.self_attn.layer_type: text_config.num_attention_heads // layer.self_attn.num_key_value_groups
            for layer in assistant.model.layers
        }
        self.eps: float = text_config.rms_norm_eps
        self.is_gelu = text_config.hidden_activation == "gelu_pytorch_tanh"
        self._space = _Workspace(self, sizes)
        if capture:
            self._space.capture()

    @property
    def vocab_size(self) -> int:
        """V: a token that can be drafted from is below it."""
        return self.lean.vocab_size

    @torch.inference_mode()
    def start(
        self,
        hidden_BH: torch.Tensor,
        tokens: Sequence[int],
        positions: Sequence[int],
        memory: Mapping[LayerType, Sequence[EntryMemory]],
    ) -> GraphedSteps:
        """Prepare one draft call on shadows that stay as they are until it is over."""
        num_sessions = len(tokens)
        space = self._space
        if num_sessions > space.num_rows:
            space = _Workspace(self, (num_sessions,))
        space.upload(hidden_BH, tokens, positions, memory)
        space.of_size(num_sessions).begin()
        return GraphedSteps(space, num_sessions)


class GraphedSteps:
    """InPlaceSteps on the workspace's buffers."""

    def __init__(self, space: _Workspace, num_sessions: int) -> None:
        self._space = space
        self._num_sessions = num_sessions

    def step(self, tokens_B: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) of the token after `tokens_B`, float32, valid until the next step."""
        num_rows = len(tokens_B)
        self._space.tokens_R[:num_rows].copy_(tokens_B)
        return self._space.of_size(num_rows).step()[:num_rows]

    @torch.inference_mode()
    def draw(
        self,
        lookaheads: Sequence[int],
        early_stops: Sequence[EarlyStop | None],
        params: Sequence[SamplingParams],
        positions: Sequence[int],
    ) -> WholeDraft:
        """All steps of the call; see `InPlaceSteps.draw`. Where a draft may end early, each step is waited for."""
        space, num_sessions = self._space, self._num_sessions
        pairs = list(zip(params, positions, strict=True))
        rows = SamplingRows.build(
            [(each, position + step) for step in range(lookaheads[0]) for each, position in pairs], space.device
        )
        tokens_KB = torch.zeros(lookaheads[0], num_sessions, dtype=torch.int64, device=space.device)
        confidences_KB = torch.zeros(lookaheads[0], num_sessions, device=space.device)
        drafting = Drafting(lookaheads, early_stops)
        for step in range(lookaheads[0]):
            if not drafting.rows:
                break
            num_active = drafting.num_active
            logits_BV = space.of_size(num_active).step()[:num_active]
            first = step * num_sessions
            choice = choose(logits_BV, rows.take(slice(first, first + num_active)))
            space.tokens_R[:num_active].copy_(choice.tokens_R)
            tokens_KB[step, :num_active] = choice.tokens_R
            confidences_KB[step, :num_active] = choice.confidences_R
            drafting.has_stepped(choice.confidences_R.tolist)
        return WholeDraft(tokens_KB, confidences_KB, drafting.lengths)


class _Workspace:
    """The buffers of one call at a time, and the passes of every size over their first rows.

    A row beyond the call's sessions has no entries: nothing that an earlier call pointed to is read.
    """

    def __init__(self, forward: GraphedForward, sizes: Sequence[int]) -> None:
        lean = forward.lean
        self.device, self.num_rows = forward.device, max(sizes)
        self.kinds = tuple(lean.rotary_weights)
        self._num_columns = 2 + 4 * len(self.kinds)
        num_numbers = self._num_columns * self.num_rows
        self._num_header_bytes = 8 * num_numbers
        self._row_bytes = forward.target_size * lean.dtype.itemsize
        num_bytes = self._num_header_bytes + self.num_rows * self._row_bytes
        is_cuda = self.device.type == "cuda"
        self._staged = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=is_cuda)
        self._copied = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]
        self._brought = torch.zeros(num_bytes, dtype=torch.uint8, device=self.device)
        self._staged_numbers, self._staged_hidden = self._parts(self._staged, lean.dtype)
        numbers, self.hidden_RH = self._parts(self._brought, lean.dtype)
        self.tokens_R, self.positions_R = numbers[0], numbers[1]
        self.places: dict[LayerType, torch.Tensor] = {
            kind: numbers[2 + 4 * index : 6 + 4 * index] for index, kind in enumerate(self.kinds)
        }
        self.carried_RD = torch.zeros(self.num_rows, len(lean.feedback_DD), dtype=lean.dtype, device=self.device)
        self.angles: dict[LayerType, tuple[torch.Tensor, torch.Tensor]] = {}
        for kind in self.kinds:
            shape = (self.num_rows, lean.rotary_weights[kind].straight_LE.shape[1])
            self.angles[kind] = (torch.zeros(shape, device=self.device), torch.zeros(shape, device=self.device))
        self._passes = [_Pass(forward, self, size) for size in sorted(sizes)]

    @torch.inference_mode()
    def capture(self) -> None:
        """Make graphs of all passes, or, with a warning, of none."""
        started_s, pool = time.monotonic(), torch.cuda.graph_pool_handle()
        try:
            # The largest first: the others then fit into the memory that its graph has left.
            graphs = [(Graph(one.begin, pool), Graph(one.step, pool)) for one in reversed(self._passes)]
        except RuntimeError as error:
            logger.warning("drafts run on no captured graphs, which makes them slower: %s", error)
            return
        for one, (begin, step) in zip(reversed(self._passes), graphs, strict=True):
            one.begin, one.step = begin.replay, step.replay
        logger.info("captured passes of %d batch sizes in %.1f s", len(graphs), time.monotonic() - started_s)

    def of_size(self, num_sessions: int) -> _Pass:
        """The smallest pass that so many sessions fit into."""
        return next(one for one in self._passes if one.size >= num_sessions)

    def upload(
        self,
        hidden_BH: torch.Tensor,
        tokens: Sequence[int],
        positions: Sequence[int],
        memory: Mapping[LayerType, Sequence[EntryMemory]],
    ) -> None:
        """Put in place what a call begins with."""
        num_sessions = len(tokens)
        if self._copied is not None:
            self._copied.synchronize()  # the last call's copy, long over
        numbers = [tokens, positions, *(part for kind in self.kinds for part in zip(*memory[kind], strict=True))]
        self._staged_numbers[:, num_sessions:] = 0
        self._staged_numbers[:, :num_sessions] = torch.tensor(numbers)
        self._staged_hidden[:num_sessions] = hidden_BH
        num_bytes = self._num_header_bytes + num_sessions * self._row_bytes
        self._brought[:num_bytes].copy_(self._staged[:num_bytes], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def _parts(self, data: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The int64 columns and the hidden states that lie in these bytes."""
        numbers = data[: self._num_header_bytes].view(torch.int64).view(self._num_columns, self.num_rows)
        return numbers, data[self._num_header_bytes :].view(dtype).view(self.num_rows, -1)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's weights, and what its attention takes on these rows."""

    lean: LeanLayer
    turn: QueryTurn
    places: Places


class _Pass:
    """The forward pass over a workspace's first `size` rows: `begin` once a call, then a `step` for each token."""

    def __init__(self, forward: GraphedForward, space: _Workspace, size: int) -> None:
        self.size = size
        self._forward, self._space = forward, space
        self._floor = forward.eps * len(forward.lean.final_norm_D)
        self._layers = [self._layer(layer) for layer in forward.lean.layers]
        self.begin: Callable[[], None] = self._begin
        self.step: Callable[[], torch.Tensor] = self._step

    def _layer(self, layer: LeanLayer) -> _Layer:
        forward, kind = self._forward, layer.layer_type
        cosines_RE, sines_RE = self._space.angles[kind]
        weights = forward.lean.rotary_weights[kind]
        turn = QueryTurn(
            cosines_BE=cosines_RE[: self.size],
            sines_BE=sines_RE[: self.size],
            straight_E=weights.straight_LE[layer.index_in_type],
            crossed_E=weights.crossed_LE[layer.index_in_type],
            floor=forward.eps * layer.head_dim,
        )
        num_kv_heads = forward.num_kv_heads[kind]
        longest = forward.sliding_window if kind == "sliding_attention" else None
        splits = num_splits(self.size, num_kv_heads, forward.device, longest)
        places = Places(table_4L=self._space.places[kind], num_kv_heads=num_kv_heads, num_splits=splits)
        return _Layer(layer, turn, places)

    def _begin(self) -> None:
        """What is constant over a call, and the first state that is carried over."""
        lean, space, size = self._forward.lean, self._space, self.size
        positions_B1 = space.positions_R[:size, None]
        like = torch.empty(0, dtype=torch.float32, device=space.device)
        for kind, angles in space.angles.items():
            for buffer_RE, angles_B1E in zip(angles, lean.rotary_emb(like, positions_B1, kind), strict=True):
                buffer_RE[:size].copy_(angles_B1E[:, 0])
        space.carried_RD[:size].copy_(F.linear(space.hidden_RH[:size], lean.hidden_half_DH))

    def _step(self) -> torch.Tensor:
        """Logits (B, V) after the tokens in place; the state for the next ones is carried over."""
        lean, space, size, floor = self._forward.lean, self._space, self.size, self._floor
        carried_BD = space.carried_RD[:size]
        stream_BD, normed_BD = embed_norm(space.tokens_R, lean.table_VD, carried_BD, floor)
        for index, layer in enumerate(self._layers, 1):
            weights = layer.lean
            query_BQE = weights.query(normed_BD).view(size, self._forward.num_heads, -1)
            attended_BQE = attend(query_BQE, layer.turn, layer.places)
            normed_BD = add_norm(
                stream_BD, weights.output(attended_BQE.view(size, -1)), weights.after_attention_D, floor
            )
            output_BD = weights.down(self._activated(weights, weights.gate_up(normed_BD)))
            next_weight_D = lean.final_norm_D if index == len(self._layers) else None
            normed_BD = add_norm(
                stream_BD, output_BD, weights.after_mlp_D, floor, scale=weights.scalar, next_weight_D=next_weight_D
            )
        carried_BD.copy_(F.linear(normed_BD, lean.feedback_DD))
        return lean.head(normed_BD)

    def _activated(self, weights: LeanLayer, gate_up_B2F: torch.Tensor) -> torch.Tensor:
        if self._forward.is_gelu:
            return gelu_times(gate_up_B2F)
        gate_BF, up_BF = gate_up_B2F.chunk(2, dim=-1)
        return weights.activation(gate_BF) * up_BF
