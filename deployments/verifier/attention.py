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

from deployments.verifier.kv_cache import BlockTables

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


@dataclass(frozen=True, slots=True)
class _View:
    """What one group reads through one window: slots, shape (B * L,), and a mask, None when all is visible."""

    slots: torch.Tensor
    length: int
    mask_B1QL: torch.Tensor | None


class Group:
    """Chunks that attend in one call: packed tokens [first, last), B sequences of up to Q queries."""

    def __init__(self, spans: Sequence[Span], first: int, tables: BlockTables, dtype: torch.dtype) -> None:
        self.first = first
        self.last = first + sum(span.num_tokens for span in spans)
        self.num_sequences = len(spans)
        self.num_queries = max(span.num_tokens for span in spans)
        self._spans = spans
        self._tables = tables
        self._dtype = dtype
        self._views: dict[int | None, _View] = {}
        device = tables.blocks_RM.device
        self._rows_B, starts_B, counts_B = torch.tensor(
            [[s.row for s in spans], [s.start for s in spans], [s.num_tokens for s in spans]], device=device
        )
        # A query beyond its sequence's last repeats that last one: finite, and thrown away.
        steps_BQ = torch.minimum(torch.arange(self.num_queries, device=device), counts_B[:, None] - 1)
        self._positions_BQ = starts_B[:, None] + steps_BQ
        self._starts_B, self._stops_B = starts_B, starts_B + counts_B
        self.pad: torch.Tensor | None = None
        self.unpad: torch.Tensor | None = None
        if self.last - first < self.num_sequences * self.num_queries:
            offsets_B = counts_B.cumsum(0) - counts_B
            self.pad = (offsets_B[:, None] + steps_BQ).flatten()
            is_real_BQ = torch.arange(self.num_queries, device=device) < counts_B[:, None]
            self.unpad = is_real_BQ.flatten().nonzero().flatten()

    def view(self, window: int | None) -> _View:
        """Gather indices and mask for layers that see `window` entries back (None: all), built once."""
        view = self._views.get(window)
        if view is None:
            view = self._views[window] = self._build(window)
        return view

    def _build(self, window: int | None) -> _View:
        tables = self._tables
        first_B = torch.zeros_like(self._starts_B)
        if window is not None:
            first_B = (self._starts_B - (window - 1)).clamp_(min=0)
        length = max(s.stop - (max(0, s.start - window + 1) if window is not None else 0) for s in self._spans)
        positions_BL = first_B[:, None] + torch.arange(length, device=first_B.device)
        is_own_BL = positions_BL < self._stops_B[:, None]
        columns_BL = (positions_BL // tables.block_size).clamp_(max=tables.blocks_RM.shape[1] - 1)
        blocks_BL = tables.blocks_RM[self._rows_B[:, None], columns_BL]
        slots_BL = torch.where(is_own_BL, blocks_BL * tables.block_size + positions_BL % tables.block_size, 0)
        return _View(slots_BL.flatten(), length, self._mask(positions_BL, window))

    def _mask(self, positions_BL: torch.Tensor, window: int | None) -> torch.Tensor | None:
        if self.num_sequences == 1 and self.num_queries == 1:
            return None  # The gather already ends at the one query and begins where its window does.
        distance_BQL = self._positions_BQ[:, :, None] - positions_BL[:, None, :]
        is_hidden_BQL = distance_BQL < 0
        if window is not None:
            is_hidden_BQL |= distance_BQL >= window
        mask_BQL = torch.zeros(is_hidden_BQL.shape, dtype=self._dtype, device=positions_BL.device)
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
    num_kv_heads = keys_SGD.shape[1]
    query = query_THD[group.first : group.last]
    if group.pad is not None:
        query = query.index_select(0, group.pad)
    kv_shape = (num_sequences, view.length, num_kv_heads, head_dim)
    output_BHQD = scaled_dot_product_attention(
        query.view(num_sequences, num_queries, num_heads, head_dim).transpose(1, 2),
        keys_SGD.index_select(0, view.slots).view(kv_shape).transpose(1, 2),
        values_SGD.index_select(0, view.slots).view(kv_shape).transpose(1, 2),
        attn_mask=view.mask_B1QL,
        scale=scaling,
        enable_gqa=num_heads != num_kv_heads,
    )
    output = output_BHQD.transpose(1, 2).reshape(num_sequences * num_queries, num_heads, head_dim)
    return output if group.unpad is None else output.index_select(0, group.unpad)


AttentionInterface.register(IMPLEMENTATION, paged_attention)
