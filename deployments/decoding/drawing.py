"""How a drafter draws its tokens: by the noise that it shares with the verifier, or for rejection sampling.

Shapes: R = rows, V = vocabulary, N = rows under rejection sampling, K = tokens of a truncated distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from deployments.decoding.noise import DRAFT, child_key, gumbel_at, gumbel_RV
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import Choose, argmax, choose, warp
from deployments.distributions import Distribution


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token per row; under rejection sampling also what it was drawn from, by row.

    Nobody may look at the confidence of a row that has a distribution: who decides by how likely the
    drawn token was whether to verify it bends the distribution.
    """

    tokens_R: Tensor
    confidences_R: Tensor
    distributions: Mapping[int, Distribution] = field(default_factory=dict)


class Draw(Protocol):
    """Draws one token per row: coupled where its salt is None, else for rejection sampling.

    A salt tells apart draws for the same position, and is at least 0.
    """

    def __call__(
        self, logits_RV: Tensor, rows: SamplingRows, salts: Sequence[int | None], choose: Choose = choose
    ) -> Drawn:
        """The tokens of these rows; `choose` is what coupled ones are chosen by."""


@dataclass(frozen=True, slots=True)
class Drawer:
    """Coupled rows guess the verifier's own choice, by the same noise. The others draw by noise of the drafter's own.

    What those draw from is kept: their `max_tokens` likeliest tokens, or all. It is truncated before a token is
    drawn, so that what is kept is exactly what it was drawn from.
    """

    max_tokens: int | None = None

    def __call__(
        self, logits_RV: Tensor, rows: SamplingRows, salts: Sequence[int | None], choose: Choose = choose
    ) -> Drawn:
        """The tokens of these rows; a row with a salt is a sampled one."""
        picked = [row for row, salt in enumerate(salts) if salt is not None]
        if len(picked) == len(salts):
            tokens_N, distributions = self._draw(logits_RV, rows, [salt for salt in salts if salt is not None])
            return Drawn(tokens_N, torch.ones(len(salts), device=logits_RV.device), dict(enumerate(distributions)))
        choice = choose(logits_RV, rows)
        if not picked:
            return Drawn(choice.tokens_R, choice.confidences_R)
        index_N = torch.tensor(picked, device=logits_RV.device)
        chosen = [salt for salt in salts if salt is not None]
        tokens_N, distributions = self._draw(logits_RV[index_N], rows.take(index_N), chosen)
        tokens_R = choice.tokens_R.index_copy(0, index_N, tokens_N)
        return Drawn(tokens_R, choice.confidences_R, dict(zip(picked, distributions, strict=True)))

    def _draw(self, logits_NV: Tensor, rows: SamplingRows, salts: Sequence[int]) -> tuple[Tensor, list[Distribution]]:
        scores_NV = warp(logits_NV, rows)
        key_N = child_key(rows.key_R, torch.tensor([DRAFT + salt for salt in salts], device=rows.key_R.device))
        if self.max_tokens is None or self.max_tokens >= scores_NV.shape[1]:
            tokens_N = argmax(gumbel_RV(key_N, scores_NV.shape[1]).add_(scores_NV))
            return tokens_N, [_as_distribution(None, row_V) for row_V in scores_NV.softmax(-1).cpu()]
        scores_NK, ids_NK = scores_NV.topk(self.max_tokens)
        noise_NK = gumbel_at(key_N.repeat_interleave(self.max_tokens), ids_NK.flatten()).view_as(scores_NK)
        tokens_N = ids_NK.gather(1, (scores_NK + noise_NK).argmax(-1, keepdim=True)).squeeze(1)
        return tokens_N, _as_sparse(ids_NK, scores_NK.softmax(-1))


def _as_sparse(ids_NK: Tensor, probabilities_NK: Tensor) -> list[Distribution]:
    rows = zip(ids_NK.int().cpu(), probabilities_NK.cpu(), strict=True)
    return [_as_distribution(ids_K[row_K > 0], row_K[row_K > 0]) for ids_K, row_K in rows]


def _as_distribution(ids_K: Tensor | None, probabilities_K: Tensor) -> Distribution:
    token_ids = b"" if ids_K is None else ids_K.numpy().tobytes()
    return Distribution(token_ids=token_ids, probabilities=probabilities_K.numpy().tobytes())
