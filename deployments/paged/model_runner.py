"""One forward pass of the unchanged transformers model over a packed batch of chunks.

Shapes: T packed tokens, R rows that need logits, C chunks, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from deployments.decoding.sampling import choose
from deployments.models.loading import cache_keyword
from deployments.paged.attention import IMPLEMENTATION, Group, Span, group_spans
from deployments.paged.chunk import Chunk
from deployments.paged.forward import Output, rows_of_interest, scored_rows
from deployments.paged.kv_cache import BlockTables, KvPools


class ModelRunner:
    """A PagedForward for any causal decoder: the model itself over the paged cache, logits where they decide."""

    choose = staticmethod(choose)

    def __init__(self, model: PreTrainedModel, tables: BlockTables, pools: KvPools) -> None:
        model.set_attn_implementation(IMPLEMENTATION)
        self._model = model
        self._tables = tables
        self._pools = pools
        self._device = model.device
        self._cache_keyword = cache_keyword(model)
        self._hidden_1TH: torch.Tensor | None = None
        model.get_decoder().register_forward_hook(self._keep_hidden)

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Output:
        """Run the chunks and write their KV entries; the sessions' computed lengths stay as they are."""
        spans = [
            Span(row=self._tables.row(chunk.session), start=chunk.start, num_tokens=len(chunk.tokens))
            for chunk in chunks
        ]
        grouping = group_spans(spans)
        order = [i for group in grouping for i in group]
        firsts = _first_tokens(chunks, order)
        groups = [
            Group([spans[i] for i in members], firsts[members[0]], self._tables, self._model.dtype, self._device)
            for members in grouping
        ]
        packed_3T = self._pack(chunks, spans, order)
        sliding = self._tables.sliding
        self._pools.begin_step(
            self._slots(self._tables.blocks_RM, packed_3T),
            None if sliding is None else self._slots(sliding.blocks_RM, packed_3T),
        )
        rows, partial_rows = rows_of_interest(chunks, firsts)
        scored = scored_rows(chunks, firsts)
        # The library takes no empty selection: a pass of partial chunks alone computes one row for nothing.
        rows_R = torch.tensor([*rows, *scored] or [0], device=self._device)
        logits_1RV = self._model(
            input_ids=packed_3T[0:1].to(self._device),
            position_ids=packed_3T[1:2].to(self._device),
            use_cache=True,
            logits_to_keep=rows_R,
            groups=groups,
            **{self._cache_keyword: self._pools},
        ).logits
        hidden_TH = self._take_hidden()
        return Output(
            logits_RV=logits_1RV[0, : len(rows)],
            hidden_RH=hidden_TH.index_select(0, rows_R[: len(rows)]),
            partial_hidden_CH=hidden_TH[partial_rows] if partial_rows else hidden_TH[:0],
            scored_RV=logits_1RV[0, len(rows) : len(rows) + len(scored)],
        )

    def _pack(self, chunks: Sequence[Chunk], spans: Sequence[Span], order: Sequence[int]) -> torch.Tensor:
        """Token ids, positions and block table rows of all tokens, one row each."""
        token_ids = [token for i in order for token in chunks[i].tokens]
        positions = [position for i in order for position in range(spans[i].start, spans[i].stop)]
        table_rows = [spans[i].row for i in order for _ in range(spans[i].num_tokens)]
        return torch.tensor([token_ids, positions, table_rows])

    def _slots(self, blocks_RM: torch.Tensor, packed_3T: torch.Tensor) -> torch.Tensor:
        _, positions_T, rows_T = packed_3T
        size = self._tables.block_size
        slots_T: torch.Tensor = blocks_RM[rows_T, positions_T // size] * size + positions_T % size
        return slots_T.to(self._device)

    def _keep_hidden(self, _module: torch.nn.Module, _args: object, output: object) -> None:
        self._hidden_1TH = output.last_hidden_state  # type: ignore[attr-defined]

    def _take_hidden(self) -> torch.Tensor:
        assert self._hidden_1TH is not None, "the decoder did not run"
        hidden_TH, self._hidden_1TH = self._hidden_1TH[0], None
        return hidden_TH


def _first_tokens(chunks: Sequence[Chunk], order: Sequence[int]) -> list[int]:
    """Where each chunk's tokens begin in the packed row, by the caller's index."""
    firsts = [0] * len(chunks)
    first = 0
    for i in order:
        firsts[i] = first
        first += len(chunks[i].tokens)
    return firsts
