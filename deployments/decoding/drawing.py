"""How a drafter draws its tokens: by the noise that it shares with the verifier, or for rejection sampling.

Shapes: R = rows, V = vocabulary, K = tokens of a truncated distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from deployments.decoding.noise import DRAFT, child_key, gumbel_at, gumbel_RV
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import argmax, choose, warp
from deployments.distributions import Distribution


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token per row; `confidences_R` is empty under rejection sampling, `distributions` where noise is shared.

    Under rejection sampling nobody may learn how likely the drawn token was: who decides by that
    whether to verify it bends the distribution.
    """

    tokens_R: Tensor
    confidences_R: Tensor
    distributions: Sequence[Distribution] = ()


class Draw(Protocol):
    """Draws one token per row; `salts` tell apart draws for the same position."""

    def __call__(self, logits_RV: Tensor, rows: SamplingRows, salts: Sequence[int]) -> Drawn:
        """The tokens of these rows."""


def draw_coupled(logits_RV: Tensor, rows: SamplingRows, salts: Sequence[int]) -> Drawn:
    """Guess the verifier's own choice: the same noise decides."""
    choice = choose(logits_RV, rows)
    return Drawn(choice.tokens_R, choice.confidences_R)


@dataclass(frozen=True, slots=True)
class DrawForRejection:
    """Draw by noise of the drafter's own, and keep what was drawn from: its `max_tokens` likeliest tokens, or all.

    Truncated before a token is drawn, so that what is kept is exactly what it was drawn from.
    """

    max_tokens: int | None = None

    def __call__(self, logits_RV: Tensor, rows: SamplingRows, salts: Sequence[int]) -> Drawn:
        """The tokens of these rows; a greedy row's is the likeliest."""
        scores_RV = warp(logits_RV, rows)
        nothing = torch.empty(0)
        if rows.is_all_greedy:
            return Drawn(argmax(logits_RV), nothing, _one_hot(argmax(logits_RV)))
        key_R = child_key(rows.key_R, torch.tensor([DRAFT + salt for salt in salts], device=rows.key_R.device))
        if self.max_tokens is None or self.max_tokens >= scores_RV.shape[1]:
            tokens_R = argmax(gumbel_RV(key_R, scores_RV.shape[1]).add_(scores_RV))
            distributions = [_as_distribution(None, row_V) for row_V in scores_RV.softmax(-1).cpu()]
        else:
            scores_RK, ids_RK = scores_RV.topk(self.max_tokens)
            noise_RK = gumbel_at(key_R.repeat_interleave(self.max_tokens), ids_RK.flatten()).view_as(scores_RK)
            tokens_R = ids_RK.gather(1, (scores_RK + noise_RK).argmax(-1, keepdim=True)).squeeze(1)
            distributions = _as_sparse(ids_RK, scores_RK.softmax(-1))
        if not rows.is_all_sampled:
            tokens_R = torch.where(rows.temperature_R > 0, tokens_R, argmax(logits_RV))
        return Drawn(tokens_R, nothing, distributions)


def _as_sparse(ids_RK: Tensor, probabilities_RK: Tensor) -> list[Distribution]:
    rows = zip(ids_RK.int().cpu(), probabilities_RK.cpu(), strict=True)
    return [_as_distribution(ids_K[row_K > 0], row_K[row_K > 0]) for ids_K, row_K in rows]


def _one_hot(tokens_R: Tensor) -> list[Distribution]:
    return _as_sparse(tokens_R[:, None], torch.ones(len(tokens_R), 1))


def _as_distribution(ids_K: Tensor | None, probabilities_K: Tensor) -> Distribution:
    token_ids = b"" if ids_K is None else ids_K.numpy().tobytes()
    return Distribution(token_ids=token_ids, probabilities=probabilities_K.numpy().tobytes())
