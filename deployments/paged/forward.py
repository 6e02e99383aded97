"""What an engine asks of a forward pass over a packed batch of chunks.

`model_runner.py` runs any causal decoder through transformers' own layers; `compiled_forward.py` runs
dense Gemma 4 layers through compiled kernels.

Shapes: R rows that need logits, C chunks, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from deployments.decoding.sampling import Choose
from deployments.paged.chunk import Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a pass computed at the rows of interest, chunk after chunk in the caller's order."""

    logits_RV: torch.Tensor  # the last 1 + num_drafted positions of each chunk that is not partial
    hidden_RH: torch.Tensor  # state after the final norm at the same positions
    partial_hidden_CH: torch.Tensor  # the same at the last position of each partial chunk
    scored_RV: torch.Tensor  # logits at the positions before each chunk's scored tokens


class PagedForward(Protocol):
    """One model over its paged cache."""

    @property
    def choose(self) -> Choose:
        """What decides tokens by this pass's logits, where they lie."""

    def forward(self, chunks: Sequence[Chunk]) -> Output:
        """Run the chunks and write their KV entries; the sessions' computed lengths stay as they are."""


def rows_of_interest(chunks: Sequence[Chunk], firsts: Sequence[int]) -> tuple[list[int], list[int]]:
    """Packed rows that decide a token, and the last row of each partial chunk; `firsts` is where each chunk begins."""
    rows: list[int] = []
    partial_rows: list[int] = []
    for chunk, first in zip(chunks, firsts, strict=True):
        stop = first + len(chunk.tokens)
        if chunk.is_partial:
            partial_rows.append(stop - 1)
        else:
            rows.extend(range(stop - 1 - chunk.num_drafted, stop))
    return rows, partial_rows


def scored_rows(chunks: Sequence[Chunk], firsts: Sequence[int]) -> list[int]:
    """Packed rows whose logits score a known token; none of them decides one."""
    return [first + i for chunk, first in zip(chunks, firsts, strict=True) for i in range(len(chunk.scored))]
