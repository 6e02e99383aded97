"""`choose` on a GPU: noise, argmax and the chosen token's probability in one reading of the scores."""

from __future__ import annotations

import torch

from deployments.cuda.picking import pick
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import Choice, warp


def choose(logits_RV: torch.Tensor, rows: SamplingRows, *, with_confidences: bool = True) -> Choice:
    """As `decoding.sampling.choose`; confidences cost nothing here, and are always there."""
    scores_RV = logits_RV if rows.is_all_greedy else warp(logits_RV, rows)
    return Choice(*pick(scores_RV, rows.key_R, rows.temperature_R))
