"""Which drafted tokens hold under rejection sampling, judged as a block (Sun et al. 2024, arXiv 2403.10444).

Token by token (Leviathan et al. 2023, arXiv 2211.17192) a token drawn from `draft` is kept with
probability min(1, target / draft). A block passes its surplus on: with p_0 = 1 and

    p_i = min(1, p_{i-1} * target(token i) / draft(token i))           what the first i tokens may be kept with
    surplus_i = max(0, p_i * target - draft), over the vocabulary       at the position after them, S_i its sum
    h_i = S_i / (S_i + 1 - p_i), and h_K = p_K for a proposal of K

the longest prefix i with uniform_i <= h_i holds, and the next token is drawn from its surplus, after a
proposal that holds whole from the target. Seen from a prefix, p_i is the chance that it or more of the
proposal holds, whatever comes behind it; so every committed token follows the target's distribution,
and never fewer are kept than token by token. That argument goes position by position from the end of
the proposal: the end may be anywhere that the tokens before it decide, and what was drawn at the end
or behind it does not (DESIGN.md 4's rule for trimming).

The uniform numbers belong to the position where the round began, not to their own: that a round cut
a position off says something of its number there, which no later round may see again. The verifier's
own tokens come from the noise that it would use without any proposal.

A token whose distribution is not known, or makes no sense, counts as drawn from itself alone: for a
given token that is right whatever made it, only kept less often.

Coupled and greedy proposals go by equality. Those under rejection are judged together, as many at once as the
device should work on. Shapes: R = rows, N = drafted tokens of all proposals, one after the other, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deployments.decoding.acceptance import accept
from deployments.decoding.noise import ACCEPT, child_key, gumbel_RV, rows_at_once, uniform
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import Choose, choose, warp
from deployments.distributions import Distribution

_TOLERANCE = 1e-3


class _Proposal(NamedTuple):
    """One proposal under rejection: its place in the step, its first row, its tokens, what each was drawn from."""

    place: int
    first: int
    draft: Sequence[int]
    given: Sequence[Distribution]


def verify(
    logits_RV: Tensor,
    rows: SamplingRows,
    drafts: Sequence[Sequence[int]],
    distributions: Sequence[Sequence[Distribution] | None],
    choose: Choose = choose,
) -> list[tuple[int, int]]:
    """One (number of accepted tokens, next token) per proposal; rows as for `accept`.

    `distributions[i]` has what each token of proposal i was drawn from, or is shorter; None: it goes by equality.
    """
    chosen = choose(logits_RV, rows, with_confidences=False).tokens_R.tolist()
    outcomes = accept(chosen, drafts)
    firsts = accumulate((len(draft) + 1 for draft in drafts), initial=0)
    proposals = [
        _Proposal(place, first, draft, given)
        for place, (first, draft, given) in enumerate(zip(firsts, drafts, distributions, strict=False))
        if draft and given is not None
    ]
    for part in _parts(proposals, rows_at_once(logits_RV.shape[1], logits_RV.device)):
        row_N = torch.tensor([row for one in part for row in range(one.first, one.first + len(one.draft))])
        row_N = row_N.to(logits_RV.device)
        judged = _judge(logits_RV[row_N], rows.take(row_N), part)
        for one, (num_accepted, token) in zip(part, judged, strict=True):
            outcomes[one.place] = num_accepted, chosen[one.first + num_accepted] if token is None else token
    return outcomes


def _parts(proposals: Sequence[_Proposal], max_rows: int) -> Iterator[list[_Proposal]]:
    """Proposals that are judged together: of so many tokens at most, or one."""
    part: list[_Proposal] = []
    num_rows = 0
    for one in proposals:
        if part and num_rows + len(one.draft) > max_rows:
            yield part
            part, num_rows = [], 0
        part.append(one)
        num_rows += len(one.draft)
    if part:
        yield part


def _judge(logits_NV: Tensor, rows: SamplingRows, proposals: Sequence[_Proposal]) -> list[tuple[int, int | None]]:
    """How many tokens of each hold, and the one after them; None where the verifier's own choice comes next."""
    drafts = [one.draft for one in proposals]
    target_NV = warp(logits_NV, rows).softmax(-1)
    kept, surplus_NV = keeping(target_NV, _drawn_from(proposals, target_NV), drafts)
    passes = (
        _uniforms(rows.key_R, [len(draft) for draft in drafts]) <= torch.tensor(kept, dtype=torch.float64)
    ).tolist()
    has_surplus = surplus_NV.any(-1).tolist()
    counts: list[int] = []
    stopped: list[int] = []  # rows whose surplus the next token is drawn from
    first = 0
    for draft in drafts:
        count = max((i + 1 for i in range(len(draft)) if passes[first + i]), default=0)
        counts.append(count)
        # No surplus: rounding alone stops here.
        stopped.append(first + count if count < len(draft) and has_surplus[first + count] else -1)
        first += len(draft)
    drawn = iter(_draw(surplus_NV, rows.key_R, [row for row in stopped if row >= 0]))
    return [(count, next(drawn) if row >= 0 else None) for count, row in zip(counts, stopped, strict=True)]


def _draw(surplus_NV: Tensor, key_N: Tensor, chosen: Sequence[int]) -> list[int]:
    """A token of each of the chosen rows, by its surplus."""
    if not chosen:
        return []
    row_M = torch.tensor(chosen).to(surplus_NV.device)
    noise_MV = gumbel_RV(key_N[row_M], surplus_NV.shape[1])
    tokens: list[int] = noise_MV.add_(surplus_NV[row_M].log_()).argmax(-1).tolist()
    return tokens


def keeping(target_NV: Tensor, draft_NV: Tensor, drafts: Sequence[Sequence[int]]) -> tuple[list[float], Tensor]:
    """The chance h_i of stopping no earlier than after i = 1 .. K tokens of each draft, and the surplus after i = 0 ..
    K - 1, [N, V].

    `target_NV` and `draft_NV` are probabilities at the drafted positions, `draft_NV` positive at each drafted token.
    """
    token_N1 = torch.tensor(list(chain.from_iterable(drafts)), device=target_NV.device)[:, None]
    ratios = iter((target_NV.gather(1, token_N1) / draft_NV.gather(1, token_N1)).squeeze(1).tolist())
    may_keep = [
        list(accumulate((next(ratios) for _ in draft), lambda may, ratio: min(1.0, may * ratio), initial=1.0))
        for draft in drafts
    ]
    before = [may for of_draft in may_keep for may in of_draft[:-1]]
    surplus_NV = _surplus(target_NV, draft_NV, torch.tensor(before, device=target_NV.device))
    sums = surplus_NV.sum(-1).tolist()
    kept: list[float] = []
    for of_draft in may_keep:
        first = len(kept)
        kept.extend(_share(sums[first + i], 1.0 - of_draft[i]) for i in range(1, len(of_draft) - 1))
        kept.append(of_draft[-1])
    return kept, surplus_NV


def _surplus(target_NV: Tensor, draft_NV: Tensor, may_keep_N: Tensor) -> Tensor:
    """What the target, of what may be kept so far, has more of than the draft."""
    return (may_keep_N[:, None] * target_NV - draft_NV).clamp_min_(0.0)


def _share(surplus: float, lacking: float) -> float:
    return surplus / (surplus + lacking) if surplus + lacking > 0 else 1.0


def _uniforms(key_N: Tensor, lengths: Sequence[int]) -> Tensor:
    """One number in (0, 1) per token of proposals so long, independent of those of rounds that begin elsewhere."""
    firsts = accumulate(lengths, initial=0)
    begin_N = torch.tensor([first for first, length in zip(firsts, lengths, strict=False) for _ in range(length)])
    index_N = torch.tensor([ACCEPT + i for length in lengths for i in range(length)])
    return uniform(child_key(key_N[begin_N.to(key_N.device)], index_N.to(key_N.device))).cpu()


def _drawn_from(proposals: Sequence[_Proposal], like_NV: Tensor) -> Tensor:
    """What each token was drawn from, in [N, V]; where that is not known, or cannot have given it, the token alone."""
    known = [one.given[i] if i < len(one.given) else None for one in proposals for i in range(len(one.draft))]
    draft_NV = torch.zeros_like(like_NV)
    _fill_whole(draft_NV, known)
    _fill_sparse(draft_NV, known)
    token_N = torch.tensor([token for one in proposals for token in one.draft], device=like_NV.device)
    every_N = torch.arange(len(token_N), device=like_NV.device)
    is_whole_N = (draft_NV.amin(-1) >= 0) & ((draft_NV.sum(-1) - 1.0).abs() < _TOLERANCE)
    lost_N = (~(is_whole_N & (draft_NV[every_N, token_N] > 0))).nonzero().squeeze(1)
    draft_NV[lost_N] = 0.0
    draft_NV[lost_N, token_N[lost_N]] = 1.0
    return draft_NV


def _fill_whole(draft_NV: Tensor, known: Sequence[Distribution | None]) -> None:
    """Write those that have a probability for each token of the vocabulary."""
    size = 4 * draft_NV.shape[1]
    whole = [(i, one) for i, one in enumerate(known) if one and not one.token_ids and len(one.probabilities) == size]
    if whole:
        weights = np.frombuffer(b"".join(one.probabilities for _, one in whole), np.float32).reshape(len(whole), -1)
        draft_NV[[i for i, _ in whole]] = torch.from_numpy(weights.copy()).to(draft_NV.device)


def _fill_sparse(draft_NV: Tensor, known: Sequence[Distribution | None]) -> None:
    """Write those that name their tokens; what is not in the vocabulary is left out, and missed in their sum."""
    sparse = [
        (i, one)
        for i, one in enumerate(known)
        if one and 0 < len(one.token_ids) == len(one.probabilities) and len(one.token_ids) % 4 == 0
    ]
    if not sparse:
        return
    row_P = np.repeat([i for i, _ in sparse], [len(one.token_ids) // 4 for _, one in sparse])
    token_P = np.frombuffer(b"".join(one.token_ids for _, one in sparse), np.int32).astype(np.int64)
    weight_P = np.frombuffer(b"".join(one.probabilities for _, one in sparse), np.float32)
    is_known_P = (token_P >= 0) & (token_P < draft_NV.shape[1])
    places = (torch.from_numpy(row_P[is_known_P]), torch.from_numpy(token_P[is_known_P]))
    device = draft_NV.device
    draft_NV[places[0].to(device), places[1].to(device)] = torch.from_numpy(weight_P[is_known_P]).to(device)
