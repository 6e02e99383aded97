"""From logits to tokens: warpers, and the argmax of warped scores plus noise.

The warpers act in this order: temperature, top-k, top-p (over what top-k left), min-p (relative to the
likeliest token). Each keeps every token whose score reaches a cut, so equal scores stand or fall
together: at a tie top-k may keep more than k tokens and top-p more mass than it must, and nothing
depends on how a sort orders equals. The likeliest token is always kept.

A greedy row (temperature 0) reads the raw logits: no other warper applies to it, its token is the
likeliest (the lowest id among equals), and its distribution is the softmax at temperature 1.

Every row is decided by itself: its result does not depend on the other rows of the batch.

Shapes: R = rows, V = vocabulary, K = sorted head of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.decoding.noise import gumbel_RV, row_slices
from deployments.decoding.rows import SamplingRows

# A row's likeliest tokens are sorted in heads of growing size until top-p is reached: a full sort of
# 262,144 logits costs fifty times as much as the 512 largest.
_FIRST_HEAD = 512
_HEAD_GROWTH = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """The token of each row and its probability under the row's warped distribution."""

    tokens_R: Tensor  # int64
    confidences_R: Tensor  # float32; empty when not asked for


def choose(logits_RV: Tensor, rows: SamplingRows, *, with_confidences: bool = True) -> Choice:
    """Decide one token per row: argmax(warped score + noise), or argmax(logit) where the row is greedy.

    Over seeds the token of a sampled row follows softmax(warp(logits)) exactly; for one seed it is a
    function of that row's logits and parameters. Each row needs one finite logit; -inf masks a token.
    """
    greedy_R = argmax(logits_RV) if not rows.is_all_sampled else None
    if rows.is_all_greedy:
        assert greedy_R is not None
        confidences_R = _probability(logits_RV.float(), greedy_R) if with_confidences else _nothing(logits_RV)
        return Choice(greedy_R, confidences_R)
    tokens_R = torch.empty(len(rows), dtype=torch.int64, device=logits_RV.device)
    confidences_R = torch.empty(len(rows), dtype=torch.float32, device=logits_RV.device)
    for part in row_slices(len(rows), logits_RV.shape[1], logits_RV.device):
        part_rows = rows.take(part)
        scores_RV = warp(logits_RV[part], part_rows)
        noise_RV = gumbel_RV(
            part_rows.seed_R, part_rows.choice_R, part_rows.position_R, logits_RV.shape[1], logits_RV.device
        )
        part_R = argmax(noise_RV.add_(scores_RV))
        if greedy_R is not None:
            part_R = torch.where(part_rows.temperature_R > 0, part_R, greedy_R[part])
        tokens_R[part] = part_R
        if with_confidences:
            confidences_R[part] = _probability(scores_RV, part_R)
    return Choice(tokens_R, confidences_R if with_confidences else _nothing(logits_RV))


def warp(logits_RV: Tensor, rows: SamplingRows) -> Tensor:
    """Scores whose softmax is the distribution to sample from, float32 [R, V]; -inf where removed.

    The score of a row's likeliest token is 0, which keeps low temperatures precise.
    """
    scores_RV = logits_RV.to(torch.float32, copy=True)
    scores_RV.sub_(scores_RV.amax(-1, keepdim=True))
    if rows.is_all_greedy:
        return scores_RV
    is_sampled_R = rows.temperature_R > 0
    scores_RV.div_(torch.where(is_sampled_R, rows.temperature_R, 1.0)[:, None])
    if rows.needs_sort or rows.needs_min_p:
        cut_R = torch.where(is_sampled_R, _cuts(scores_RV, rows), -torch.inf)
        scores_RV.masked_fill_(scores_RV < cut_R[:, None], -torch.inf)
    return scores_RV


def argmax(values_RV: Tensor) -> Tensor:
    """The lowest id among each row's largest values, int64 [R]."""
    return values_RV.argmax(-1)


def _cuts(scores_RV: Tensor, rows: SamplingRows) -> Tensor:
    """The lowest score that each row keeps, float32 [R]."""
    cut_R = rows.min_p_R.log() if rows.needs_min_p else torch.full_like(rows.min_p_R, -torch.inf)
    if rows.needs_sort:
        vocab_size = scores_RV.shape[1]
        has_top_k_R = (rows.top_k_R > 0) & (rows.top_k_R < vocab_size)
        index_R = torch.nonzero((has_top_k_R | (rows.top_p_R < 1)) & (rows.temperature_R > 0)).flatten()
        if len(index_R):
            top_k_R = torch.where(has_top_k_R, rows.top_k_R, vocab_size)[index_R]
            cut_R[index_R] = torch.maximum(
                cut_R[index_R], _sorted_cuts(scores_RV[index_R], top_k_R, rows.top_p_R[index_R])
            )
    return cut_R.clamp_max_(0.0)


def _sorted_cuts(scores_RV: Tensor, top_k_R: Tensor, top_p_R: Tensor) -> Tensor:
    """The cut of top-k, then top-p, for rows that need the order of their scores, float32 [R]."""
    vocab_size = scores_RV.shape[1]
    cut_R = torch.full_like(top_p_R, -torch.inf)
    size = _FIRST_HEAD
    pending_R = torch.arange(len(top_k_R), device=scores_RV.device)
    while len(pending_R):
        size = min(size, vocab_size)
        head_cut_R, is_found_R = _head_cuts(scores_RV[pending_R], top_k_R[pending_R], top_p_R[pending_R], size)
        cut_R[pending_R] = head_cut_R
        pending_R = pending_R[~is_found_R]
        size *= _HEAD_GROWTH
    return cut_R


def _head_cuts(scores_RV: Tensor, top_k_R: Tensor, top_p_R: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The cuts as far as the `size` likeliest tokens of each row tell them, and whether they do."""
    vocab_size = scores_RV.shape[1]
    head_RK = scores_RV.topk(size).values
    # Top-k: the k-th score, where it lies in this head; its equals beyond the k-th place are kept too.
    has_top_k_R = top_k_R < vocab_size
    knows_top_k_R = top_k_R <= size
    kth_R = head_RK.gather(1, (top_k_R.clamp_max(size) - 1)[:, None]).squeeze(1)
    kth_R = torch.where(has_top_k_R, kth_R, -torch.inf)
    # Top-p: the last token before which the mass still falls short, among those that top-k keeps.
    kept_RV = scores_RV.masked_fill(scores_RV < kth_R[:, None], -torch.inf)
    mass_R = kept_RV.double().exp_().sum(-1)
    weight_RK = head_RK.double().exp_()
    before_RK = weight_RK.cumsum(-1).sub_(weight_RK)
    is_short_RK = before_RK < (top_p_R.double() * mass_R)[:, None]
    num_kept_R = is_short_RK.sum(-1).clamp_min(1)
    top_p_cut_R = head_RK.gather(1, (num_kept_R - 1)[:, None]).squeeze(1)
    cut_R = torch.where(top_p_R < 1, torch.maximum(top_p_cut_R, kth_R), kth_R)
    knows_top_p_R = (top_p_R >= 1) | (num_kept_R < size) | (size == vocab_size) | (top_p_cut_R <= kth_R)
    return cut_R, knows_top_k_R & knows_top_p_R | (torch.full_like(knows_top_p_R, size == vocab_size))


def _probability(scores_RV: Tensor, tokens_R: Tensor) -> Tensor:
    """softmax(scores)[token] of each row, float32 [R]."""
    return scores_RV.softmax(-1).gather(1, tokens_R[:, None]).squeeze(1)


def _nothing(like: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.float32, device=like.device)
