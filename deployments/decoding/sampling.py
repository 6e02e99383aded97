"""From logits to tokens: warpers, and the argmax of warped scores plus noise.

The warpers act in this order: temperature, top-k, top-p (over what top-k left), min-p (relative to the
likeliest token). Each keeps every token whose score reaches a cut, so equal scores stand or fall
together: at a tie top-k may keep more than k tokens and top-p more mass than it must, and nothing
depends on how a sort orders equals. The likeliest token is always kept.

A greedy row (temperature 0) reads the raw logits: no other warper applies to it, its token is the
likeliest (the lowest id among equals), and its distribution is the softmax at temperature 1.

Every row is decided by itself: its result does not depend on the other rows of the batch.

Shapes: R = rows, V = vocabulary, K = sorted head of a row, N = (row, token) pairs that survive the cuts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from deployments.decoding.noise import gumbel_at, gumbel_RV, row_slices
from deployments.decoding.rows import SamplingRows

# Without a top-k, top-p sorts heads of growing size until its mass is reached: the 128 largest of
# 262,144 scores cost a fiftieth of sorting them all.
_FIRST_HEAD = 128
_HEAD_GROWTH = 16

# Batches at least this large are searched in blocks: amax is vectorised on a CPU, argmax is not.
_MIN_BLOCKED_ELEMENTS = 1 << 16
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Choice:
    """The token of each row and its probability under the row's warped distribution."""

    tokens_R: Tensor  # int64
    confidences_R: Tensor  # float32; empty when not asked for


class Choose(Protocol):
    """What `choose` does, by it or by kernels that decide alike."""

    def __call__(self, logits_RV: Tensor, rows: SamplingRows, *, with_confidences: bool = True) -> Choice:
        """Decide one token per row."""


def choose(logits_RV: Tensor, rows: SamplingRows, *, with_confidences: bool = True) -> Choice:
    """Decide one token per row: argmax(warped score + noise), or argmax(logit) where the row is greedy.

    Over seeds the token of a sampled row follows softmax(warp(logits)) exactly; for one seed it is a
    function of that row's logits and parameters. A token at -inf is never chosen; a row without a
    finite logit yields some token.
    """
    if rows.is_all_greedy:
        tokens_R = argmax(logits_RV)
        confidences_R = _probabilities(logits_RV, tokens_R) if with_confidences else _nothing(logits_RV)
        return Choice(tokens_R, confidences_R)
    parts = row_slices(len(rows), logits_RV.shape[1], logits_RV.device)
    if len(parts) <= 1:  # none where there is no row
        return _choose_part(logits_RV, rows, with_confidences)
    choices = [_choose_part(logits_RV[part], rows.take(part), with_confidences) for part in parts]
    return Choice(
        torch.cat([choice.tokens_R for choice in choices]), torch.cat([choice.confidences_R for choice in choices])
    )


def warp(logits_RV: Tensor, rows: SamplingRows) -> Tensor:
    """Scores whose softmax is the distribution to sample from, float32 [R, V]; -inf where removed.

    The score of a row's likeliest token is 0, which keeps low temperatures precise.
    """
    logits_RV = logits_RV.float()
    scores_RV = logits_RV - logits_RV.amax(-1, keepdim=True)
    if rows.is_all_greedy:
        return scores_RV
    is_sampled_R = rows.temperature_R > 0
    scores_RV.div_(torch.where(is_sampled_R, rows.temperature_R, 1.0)[:, None])
    if rows.max_top_k > 0 or rows.has_top_p or rows.has_min_p:
        cut_R = torch.where(is_sampled_R, _cuts(scores_RV, rows), -torch.inf)
        scores_RV.masked_fill_(scores_RV < cut_R[:, None], -torch.inf)
    return scores_RV


def argmax(values_RV: Tensor) -> Tensor:
    """The lowest id among each row's largest values, int64 [R]."""
    num_rows, vocab_size = values_RV.shape
    if values_RV.device.type != "cpu" or values_RV.numel() < _MIN_BLOCKED_ELEMENTS or vocab_size % _BLOCK:
        return values_RV.argmax(-1)
    blocks = values_RV.view(num_rows, -1, _BLOCK)
    block_R = blocks.amax(-1).argmax(-1)
    best_R = blocks[torch.arange(num_rows), block_R].argmax(-1)
    return best_R.add_(block_R, alpha=_BLOCK)


def _choose_part(logits_RV: Tensor, rows: SamplingRows, with_confidences: bool) -> Choice:
    scores_RV = warp(logits_RV, rows)
    is_sampled_R = rows.temperature_R > 0
    # A GPU makes all noise sooner than it tells how many tokens are left.
    if rows.is_all_cut and scores_RV.device.type == "cpu":
        tokens_R = _sparse_argmax(scores_RV, rows.key_R, is_sampled_R)
    else:
        tokens_R = argmax(gumbel_RV(rows.key_R, scores_RV.shape[1]).add_(scores_RV))
    if not rows.is_all_sampled:
        tokens_R = torch.where(is_sampled_R, tokens_R, argmax(logits_RV))
    confidences_R = _probabilities(scores_RV, tokens_R) if with_confidences else _nothing(logits_RV)
    return Choice(tokens_R, confidences_R)


def _sparse_argmax(scores_RV: Tensor, key_R: Tensor, is_wanted_R: Tensor) -> Tensor:
    """argmax(score + noise) of the wanted rows, int64 [R]: makes noise only for tokens that survived the cuts."""
    num_rows, vocab_size = scores_RV.shape
    row_N, token_N = torch.nonzero((scores_RV != -torch.inf) & is_wanted_R[:, None], as_tuple=True)
    perturbed_N = scores_RV[row_N, token_N].add_(gumbel_at(key_R[row_N], token_N))
    best_R = perturbed_N.new_full((num_rows,), -torch.inf).scatter_reduce_(0, row_N, perturbed_N, "amax")
    # The last id stands in where there is no winner: a row of NaN, or one that is not wanted.
    winner_N = torch.where(perturbed_N == best_R[row_N], token_N, vocab_size - 1)
    return torch.full_like(key_R, vocab_size - 1).scatter_reduce_(0, row_N, winner_N, "amin")


def _cuts(scores_RV: Tensor, rows: SamplingRows) -> Tensor:
    """The lowest score that each row keeps, float32 [R], at most 0, the score of the likeliest token."""
    cut_R = rows.min_p_R.log() if rows.has_min_p else torch.full_like(rows.min_p_R, -torch.inf)
    if rows.max_top_k > 0 or rows.has_top_p:
        cut_R = torch.maximum(cut_R, _sorted_cuts(scores_RV, rows))
    return cut_R.clamp_max_(0.0)


def _sorted_cuts(scores_RV: Tensor, rows: SamplingRows) -> Tensor:
    """The lowest score that top-k, then top-p keep in each row, float32 [R], read off its sorted head."""
    vocab_size = scores_RV.shape[1]
    size = min(max(rows.max_top_k, _FIRST_HEAD if rows.has_free_top_p else 1), vocab_size)
    head_RK = scores_RV.topk(size).values
    has_top_k_R = rows.top_k_R > 0
    kth_R = head_RK.gather(1, (rows.top_k_R.clamp(1, size) - 1)[:, None]).squeeze(1)
    kth_R = torch.where(has_top_k_R, kth_R, -torch.inf)
    if not rows.has_top_p:
        return kth_R
    mass_R = _kept_mass(scores_RV, head_RK, kth_R, has_top_k_R, rows)
    has_top_p_R = (rows.top_p_R < 1) & (rows.temperature_R > 0)
    cut_R, is_open_R = _nucleus_cuts(head_RK, mass_R, rows.top_p_R)
    is_open_R &= has_top_p_R & ~has_top_k_R
    while rows.has_free_top_p and size < vocab_size and bool(is_open_R.any()):
        size = min(size * _HEAD_GROWTH, vocab_size)
        open_R = is_open_R.nonzero().squeeze(1)
        head_RK = scores_RV[open_R].topk(size).values
        cut_R[open_R], is_open_R[open_R] = _nucleus_cuts(head_RK, mass_R[open_R], rows.top_p_R[open_R])
    return torch.where(has_top_p_R, cut_R, kth_R)


def _kept_mass(scores_RV: Tensor, head_RK: Tensor, kth_R: Tensor, has_top_k_R: Tensor, rows: SamplingRows) -> Tensor:
    """The sum of exp(score) over what top-k leaves of each row, float64 [R].

    Each row's sum is taken in an order of its own, so that no other row can move a top-p cut.
    """
    mass_R = torch.zeros_like(kth_R, dtype=torch.float64)
    if rows.max_top_k > 0:
        is_kept_RK = head_RK >= kth_R[:, None]
        mass_R = head_RK.double().exp_().mul_(is_kept_RK).cumsum(-1)[:, -1]
        # Equals of the k-th score may lie beyond the head.
        num_missing_R = (scores_RV >= kth_R[:, None]).sum(-1) - is_kept_RK.sum(-1)
        mass_R = mass_R + num_missing_R * kth_R.double().exp()
    if rows.has_free_top_p:
        # The likeliest token's score is 0, so its probability is one over the sum.
        mass_R = torch.where(has_top_k_R, mass_R, 1.0 / scores_RV.softmax(-1).amax(-1).double())
    return mass_R


def _nucleus_cuts(head_RK: Tensor, mass_R: Tensor, top_p_R: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest score of each row's nucleus, and whether it may reach beyond this head.

    The nucleus is every token before which, in falling order, less than top-p of the mass lies.
    """
    weight_RK = head_RK.double().exp_()
    before_RK = weight_RK.cumsum(-1).sub_(weight_RK)
    num_kept_R = (before_RK < (mass_R * top_p_R)[:, None]).sum(-1).clamp_min_(1)
    cut_R = head_RK.gather(1, (num_kept_R - 1)[:, None]).squeeze(1)
    return cut_R, num_kept_R == head_RK.shape[1]


def _probabilities(scores_RV: Tensor, tokens_R: Tensor) -> Tensor:
    """softmax(scores)[token] of each row, float32 [R]."""
    return scores_RV.softmax(-1, dtype=torch.float32).gather(1, tokens_R[:, None]).squeeze(1)


def _nothing(like: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.float32, device=like.device)
