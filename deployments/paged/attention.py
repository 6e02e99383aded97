"""Attention over block tables: what a step's layers share, and the function that every layer calls.

A step packs the tokens of all its chunks into one row. For attention they fall into groups, each a
range of the packed tokens: short chunks of similar context together (padded to the longest), a long
prompt chunk by itself. The gathers and masks of a group depend on the layer only through its sliding
window, so they are built once per window and step.

Shapes: T packed tokens, B sequences of a group, Q queries of the longest, L entries the longest
reads, S slots of a pool, H query heads, G kv heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from deployments.paged.kv_cache import BlockTables
from deployments.paged.sliding_tables import SlidingTables

IMPLEMENTATION = "outrider_paged"
"""The name under which transformers finds `paged_attention`."""

_LONG_CHUNK = 17
_PADDING_FACTOR, _PADDING_SLACK = 2, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One chunk as attention sees it: `num_tokens` queries from position `start`, reading table row `row`."""

    row: int
    start: int
    num_tokens: int

    @property
    def stop(self) -> int:
        """Entries the last query reads, its own included."""
        return self.start + self.num_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What a group reads through one window: entries per sequence, where they lie, and which queries see them.

    A lone sequence in consecutive blocks is read in place from `run`, everything else gathered from
    `slots`, shape (B * L,). A mask of None hides nothing.
    """

    length: int
    run: int | None
    slots: torch.Tensor | None
    mask_B1QL: torch.Tensor | None

    def read(self, pool_SGD: torch.Tensor, num_sequences: int) -> torch.Tensor:
        """A pool's entries as the attention kernel wants them, shape (B, G, L, D)."""
        if self.slots is None:
            assert self.run is not None
            entries = pool_SGD.narrow(0, self.run, self.length)
        else:
            entries = pool_SGD.index_select(0, self.slots)
        return entries.view(num_sequences, self.length, *pool_SGD.shape[1:]).transpose(1, 2)


class Group:
    """Chunks that attend in one call: packed tokens [first, last), B sequences of up to Q queries."""

    def __init__(
        self, spans: Sequence[Span], first: int, tables: BlockTables, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.first = first
        self.last = first + sum(span.num_tokens for span in spans)
        self.num_sequences = len(spans)
        self.num_queries = max(span.num_tokens for span in spans)
        self.pad: torch.Tensor | None = None
        self.unpad: torch.Tensor | None = None
        self._spans = spans
        self._tables = tables
        self._dtype = dtype
        self._device = device
        self._views: dict[int | None, _View] = {}
        if self.last - first < self.num_sequences * self.num_queries:
            self._make_padding()

    def view(self, window: int | None) -> _View:
        """What layers read that see `window` entries back (None: all); built at the first such layer."""
        view = self._views.get(window)
        if view is None:
            view = self._views[window] = self._build(window)
        return view

    def _make_padding(self) -> None:
        """A query beyond its sequence's last repeats that last one: finite, and dropped afterwards."""
        pad: list[int] = []
        unpad: list[int] = []
        offset = 0
        for b, span in enumerate(self._spans):
            pad.extend(offset + min(q, span.num_tokens - 1) for q in range(self.num_queries))
            unpad.extend(range(b * self.num_queries, b * self.num_queries + span.num_tokens))
            offset += span.num_tokens
        self.pad = torch.tensor(pad, device=self._device)
        self.unpad = torch.tensor(unpad, device=self._device)

    def _build(self, window: int | None) -> _View:
        firsts = [0 if window is None else max(0, span.start - window + 1) for span in self._spans]
        length = max(span.stop - first for span, first in zip(self._spans, firsts, strict=True))
        tables = self._tables.sliding if window is not None and self._tables.sliding is not None else self._tables
        is_lone = self.num_sequences == 1 and tables is self._tables
        run = self._tables.run_start(self._spans[0].row) if is_lone else None
        if run is not None:
            run += firsts[0]
        is_simple = self.num_sequences == 1 and self.num_queries == 1
        if run is not None and is_simple:
            return _View(length=length, run=run, slots=None, mask_B1QL=None)
        positions_BL = torch.tensor(firsts)[:, None] + torch.arange(length)
        return _View(
            length=length,
            run=run,
            slots=None if run is not None else self._slots(positions_BL, tables),
            # A lone query sees all that is read: the view ends at it, and begins where its window does.
            mask_B1QL=None if is_simple else self._mask(positions_BL, window),
        )

    def _slots(self, positions_BL: torch.Tensor, tables: BlockTables | SlidingTables) -> torch.Tensor:
        """Where the entries at these positions lie; padding beyond a sequence's last reads the null block."""
        rows_B, stops_B = torch.tensor([[span.row for span in self._spans], [span.stop for span in self._spans]])
        columns_BL = (positions_BL // tables.block_size).clamp_(max=tables.blocks_RM.shape[1] - 1)
        slots_BL = tables.blocks_RM[rows_B[:, None], columns_BL] * tables.block_size + positions_BL % tables.block_size
        return slots_BL.mul_(positions_BL < stops_B[:, None]).flatten().to(self._device)

    def _mask(self, positions_BL: torch.Tensor, window: int | None) -> torch.Tensor:
        """0 where a query sees an entry: itself and before, within its window; minus infinity elsewhere."""
        queries = [[s.start + min(q, s.num_tokens - 1) for q in range(self.num_queries)] for s in self._spans]
        distance_BQL = (
            torch.tensor(queries, device=self._device)[:, :, None] - positions_BL.to(self._device)[:, None, :]
        )
        is_hidden_BQL = distance_BQL < 0
        if window is not None:
            is_hidden_BQL |= distance_BQL >= window
        mask_BQL = torch.zeros(is_hidden_BQL.shape, dtype=self._dtype, device=self._device)
        return mask_BQL.masked_fill_(is_hidden_BQL, -torch.inf)[:, None]


def group_spans(spans: Sequence[Span]) -> list[list[int]]:
    """Indices of the spans of each group: short spans whose contexts differ little, long ones alone.

    Equal lengths stand side by side where contexts allow, so that most groups need no padding.
    """
    short = [i for i, span in enumerate(spans) if span.num_tokens < _LONG_CHUNK]
    short.sort(key=lambda i: spans[i].stop)
    groups: list[list[int]] = []
    limit = -1
    for i in short:
        if spans[i].stop > limit:
            groups.append([])
            limit = _PADDING_FACTOR * spans[i].stop + _PADDING_SLACK
        groups[-1].append(i)
    return groups + [[i] for i, span in enumerate(spans) if span.num_tokens >= _LONG_CHUNK]


def paged_attention(
    module: torch.nn.Module,
    query_1HTD: torch.Tensor,
    keys_SGD: torch.Tensor,
    values_SGD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    groups: Sequence[Group],
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend every packed query to its own session's entries; returns shape (1, T, H, D).

    The pools come from `KvPools.update`, the groups from the forward pass's keyword arguments.
    """
    query_THD = query_1HTD[0].transpose(0, 1)
    outputs = [_attend(group, query_THD, keys_SGD, values_SGD, scaling, sliding_window) for group in groups]
    output_THD = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output_THD[None], None


def _attend(
    group: Group,
    query_THD: torch.Tensor,
    keys_SGD: torch.Tensor,
    values_SGD: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    view = group.view(window)
    num_sequences, num_queries = group.num_sequences, group.num_queries
    num_heads, head_dim = query_THD.shape[1:]
    query = query_THD[group.first : group.last]
    if group.pad is not None:
        query = query.index_select(0, group.pad)
    output_BHQD = scaled_dot_product_attention(
        query.view(num_sequences, num_queries, num_heads, head_dim).transpose(1, 2),
        view.read(keys_SGD, num_sequences),
        view.read(values_SGD, num_sequences),
        attn_mask=view.mask_B1QL,
        scale=scaling,
        enable_gqa=num_heads != keys_SGD.shape[1],
    )
    output = output_BHQD.transpose(1, 2).reshape(num_sequences * num_queries, num_heads, head_dim)
    return output if group.unpad is None else output.index_select(0, group.unpad)


AttentionInterface.register(IMPLEMENTATION, paged_attention)
