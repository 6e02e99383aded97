"""What one draft call attends to: the keys and values of its sessions, laid out once for all k steps.

Shapes: B sessions of the draft batch, H kv heads, T entries, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from deployments.messages import LayerType

KvView = tuple[torch.Tensor, torch.Tensor]
"""One session's keys and values of one layer, each (H, T, D)."""


class EntryMemory(NamedTuple):
    """Where one session's entries of one layer lie: addresses of the first head's first key and value.

    A head's entries lie side by side, and `head_stride` elements behind those of the head before. Valid until the
    shadow is written to.
    """

    keys: int
    values: int
    head_stride: int
    num_entries: int


@dataclass(frozen=True, slots=True)
class AttentionPart:
    """Rows [first, last) of a batch; `mask_B11T` is 0 or minus infinity, None when nothing is padded."""

    first: int
    last: int
    keys_BHTD: torch.Tensor
    values_BHTD: torch.Tensor
    mask_B11T: torch.Tensor | None

    def narrow(self, num_rows: int) -> AttentionPart:
        """The same without the rows from `num_rows` of the batch on."""
        last = min(self.last, num_rows)
        size = last - self.first
        mask = None if self.mask_B11T is None else self.mask_B11T[:size]
        return AttentionPart(self.first, last, self.keys_BHTD[:size], self.values_BHTD[:size], mask)


AttentionInputs = dict[LayerType, tuple[AttentionPart, ...]]


def stacked(views: Sequence[KvView]) -> tuple[AttentionPart, ...]:
    """One padded part for all sessions: few launches, at the price of copying every entry once."""
    if len(views) == 1:
        return separate(views)
    lengths = [keys.shape[1] for keys, _ in views]
    longest = max(lengths)
    heads, _, dim = views[0][0].shape
    keys_BHTD, values_BHTD = (views[0][0].new_zeros(len(views), heads, longest, dim) for _ in range(2))
    for row, (keys_HTD, values_HTD) in enumerate(views):
        keys_BHTD[row, :, : lengths[row]] = keys_HTD
        values_BHTD[row, :, : lengths[row]] = values_HTD
    return (AttentionPart(0, len(views), keys_BHTD, values_BHTD, _padding_mask(lengths, keys_BHTD)),)


def separate(views: Sequence[KvView]) -> tuple[AttentionPart, ...]:
    """One part per session, straight on the shadow's own memory: nothing is copied or masked."""
    return tuple(
        AttentionPart(row, row + 1, keys_HTD[None], values_HTD[None], None)
        for row, (keys_HTD, values_HTD) in enumerate(views)
    )


def narrowed(inputs: AttentionInputs, num_rows: int) -> AttentionInputs:
    """The inputs of the batch's first `num_rows` sessions."""
    return {
        layer_type: tuple(part.narrow(num_rows) for part in parts if part.first < num_rows)
        for layer_type, parts in inputs.items()
    }


def _padding_mask(lengths: Sequence[int], like: torch.Tensor) -> torch.Tensor | None:
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    is_padding_BT = torch.arange(longest)[None] >= torch.tensor(lengths)[:, None]
    mask_BT = torch.zeros(is_padding_BT.shape, dtype=like.dtype).masked_fill_(is_padding_BT, float("-inf"))
    return mask_BT[:, None, None].to(like.device)
