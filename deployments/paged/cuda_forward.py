"""Gemma 4 on a GPU: fused layers over the paged cache, steps of few tokens replayed as captured graphs.

A step's inputs are integers: they are packed on the host and copied at once. The block tables lie on the host, and
are copied when they have changed. Steps are padded to the next captured number of tokens; padding attends to a row of
null blocks, and writes nothing.

Shapes: T packed tokens, W tiles, R rows that need logits, C chunks, V vocabulary, H hidden size.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from transformers import PreTrainedModel

from deployments.cuda.attention import Paging, tiles
from deployments.cuda.graphs import Graph
from deployments.decoding.cuda_choose import choose
from deployments.models.cuda_layers import Layout, fuse, local
from deployments.paged.attention import IMPLEMENTATION
from deployments.paged.chunk import Chunk
from deployments.paged.forward import Output, rows_of_interest, scored_rows
from deployments.paged.kv_cache import BlockTables, KvPools
from deployments.paged.sliding_tables import SlidingTables

logger = logging.getLogger(__name__)

CAPTURED_TOKENS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512)
"""Steps of at most so many tokens are replayed; larger ones keep the device busy while they are launched."""

Integers = npt.NDArray[np.int64]


class CudaForward:
    """A PagedForward. The model, or its share on this rank, is its own from now on."""

    choose = staticmethod(choose)

    def __init__(
        self,
        model: PreTrainedModel,
        tables: BlockTables,
        pools: KvPools,
        *,
        num_ranks: int = 1,
        captures: bool = True,
    ) -> None:
        # A name that the library knows no masks for: it makes none.
        model.set_attn_implementation(IMPLEMENTATION)
        config: Any = model.config.get_text_config()
        fuse(model, pools.whole, num_ranks=num_ranks)
        self._num_ranks = num_ranks
        self._tables = tables
        self._decoder: Any = model.get_decoder()
        self._head_VH = local(model.get_output_embeddings().weight)
        self._softcap: float | None = config.final_logit_softcapping
        self._device = model.device
        self._full = _DeviceTables(tables, self._device)
        self._sliding = self._full if tables.sliding is None else _DeviceTables(tables.sliding, self._device)
        self._batches = [self._batch(num_tokens) for num_tokens in CAPTURED_TOKENS]
        self._graphs = self._capture() if captures else []

    @torch.inference_mode()
    def forward(self, chunks: Sequence[Chunk]) -> Output:
        """Run the chunks and write their KV entries; the sessions' computed lengths stay as they are."""
        firsts = [0, *accumulate(len(chunk.tokens) for chunk in chunks)]
        num_tokens = firsts.pop()
        place = bisect_left(CAPTURED_TOKENS, num_tokens)
        batch = self._batches[place] if place < len(self._batches) else self._batch(num_tokens)
        rows, partial_rows = rows_of_interest(chunks, firsts)
        num_deciding = len(rows)
        rows += scored_rows(chunks, firsts)
        num_logits = len(rows)
        self._full.refresh()
        if self._sliding is not self._full:
            self._sliding.refresh()
        batch.fill(chunks, rows + partial_rows, self._tables)
        hidden_TH = self._graphs[place].replay() if place < len(self._graphs) else self._decode(batch)
        # A copy: the next replay overwrites the graph's own.
        states = hidden_TH.index_select(0, batch.rows_T[: num_logits + len(partial_rows)])
        logits_RV = self._logits(states[:num_logits])
        return Output(
            logits_RV=logits_RV[:num_deciding],
            hidden_RH=states[:num_deciding],
            partial_hidden_CH=states[num_logits:],
            scored_RV=logits_RV[num_deciding:],
        )

    @torch.inference_mode()
    def _capture(self) -> list[Graph[torch.Tensor]]:
        """A graph of every size, the largest first, so that the others find their memory; none where one fails."""
        started_s = time.perf_counter()
        pool = torch.cuda.graph_pool_handle()
        graphs = []
        try:
            for batch in reversed(self._batches):
                batch.fill((), (), self._tables)
                graphs.append(Graph(partial(self._decode, batch), pool))
        except RuntimeError as error:
            logger.warning("steps are not captured, which makes small ones slower: %s", error)
            return []
        logger.info("captured %d step sizes in %.1f s", len(graphs), time.perf_counter() - started_s)
        return graphs[::-1]

    def _decode(self, batch: _Batch) -> torch.Tensor:
        """The states after the final norm, shape (T, H)."""
        states: torch.Tensor = self._decoder(
            input_ids=batch.tokens_T[None],
            position_ids=batch.positions_T[None],
            use_cache=False,
            layout=batch.layout,
        ).last_hidden_state[0]
        return states

    def _logits(self, states_RH: torch.Tensor) -> torch.Tensor:
        logits_RV = torch.nn.functional.linear(states_RH, self._head_VH)
        if self._num_ranks > 1:  # each has its part of the vocabulary
            parts = [torch.empty_like(logits_RV) for _ in range(self._num_ranks)]
            torch.distributed.all_gather(parts, logits_RV)
            logits_RV = torch.cat(parts, 1)
        if self._softcap is not None:
            logits_RV = torch.tanh(logits_RV / self._softcap) * self._softcap
        return logits_RV

    def _batch(self, num_tokens: int) -> _Batch:
        block_size = self._tables.block_size
        return _Batch(num_tokens, self._full.blocks_RM, self._sliding.blocks_RM, block_size, self._device)


class _DeviceTables:
    """A copy of block tables on the device, with one more row, of null blocks, for padding."""

    def __init__(self, tables: BlockTables | SlidingTables, device: torch.device) -> None:
        self._tables = tables
        self._version = -1
        num_rows, num_columns = tables.blocks_RM.shape
        self.blocks_RM = torch.zeros(num_rows + 1, num_columns, dtype=torch.int64, device=device)

    def refresh(self) -> None:
        """Bring the copy up to date."""
        if self._version != self._tables.version:
            self.blocks_RM[:-1].copy_(self._tables.blocks_RM, non_blocking=True)
            self._version = self._tables.version


class _Batch:
    """A step's integers, at addresses that stay: T tokens, positions, slots of either kind and rows, and W tiles."""

    def __init__(
        self,
        num_tokens: int,
        blocks_RM: torch.Tensor,
        sliding_blocks_RM: torch.Tensor,
        block_size: int,
        device: torch.device,
    ) -> None:
        self._num_tokens = num_tokens
        self._null_row = len(blocks_RM) - 1
        self._all = torch.zeros(9, num_tokens, dtype=torch.int64, device=device)
        self.tokens_T, self.positions_T, slots_T, sliding_slots_T, self.rows_T = self._all[:5]
        tiles_4W = self._all[5:]
        self.layout = Layout(
            slots_T=slots_T,
            paging=Paging(tiles_4W=tiles_4W, blocks_RM=blocks_RM, block_size=block_size),
            sliding_slots_T=sliding_slots_T,
            sliding_paging=Paging(tiles_4W=tiles_4W, blocks_RM=sliding_blocks_RM, block_size=block_size),
        )

    def fill(self, chunks: Sequence[Chunk], rows: Sequence[int], tables: BlockTables) -> None:
        """Pack these chunks; `rows` are read back from `rows_T`."""
        packed = np.zeros((9, self._num_tokens), dtype=np.int64)
        packed[2:4] = -1
        blocks_RM = tables.blocks_RM.numpy()
        sliding_RM = blocks_RM if tables.sliding is None else tables.sliding.blocks_RM.numpy()
        spans: list[tuple[int, int, int]] = []
        first = 0
        for chunk in chunks:
            size, row = len(chunk.tokens), tables.row(chunk.session)
            part = packed[:, first : first + size]
            positions = np.arange(chunk.start, chunk.start + size)
            part[0], part[1] = chunk.tokens, positions
            part[2] = _slots(blocks_RM[row], positions, tables.block_size)
            part[3] = _slots(sliding_RM[row], positions, tables.block_size)
            spans.append((size, chunk.start, row))
            first += size
        if first < self._num_tokens:
            spans.append((self._num_tokens - first, 0, self._null_row))
        packed[4, : len(rows)] = rows
        found = np.array(list(_padding_apart(spans, self._null_row)), dtype=np.int64).T
        packed[5:, : found.shape[1]] = found
        self._all.copy_(torch.from_numpy(packed), non_blocking=True)


def _padding_apart(spans: Sequence[tuple[int, int, int]], null_row: int) -> list[tuple[int, int, int, int]]:
    """Tiles of these chunks; each tile of padding begins at position 0, for a null row has entries there only."""
    return [(first, size, 0 if row == null_row else start, row) for first, size, start, row in tiles(spans)]


def _slots(blocks_M: Integers, positions: Integers, block_size: int) -> Integers:
    slots: Integers = blocks_M[positions // block_size] * block_size + positions % block_size
    return slots
