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

Coupled and greedy proposals go by equality. Shapes: R = rows, K = tokens of a proposal, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deployments.decoding.acceptance import accept
from deployments.decoding.noise import ACCEPT, child_key, gumbel_RV, uniform
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import Choose, choose, warp
from deployments.distributions import Distribution

_TOLERANCE = 1e-3


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
    chosen_R = choose(logits_RV, rows, with_confidences=False).tokens_R
    outcomes = accept(chosen_R, drafts)
    first = 0
    for index, (draft, given) in enumerate(zip(drafts, distributions, strict=True)):
        if draft and given is not None:
            part = slice(first, first + len(draft))
            num_accepted, token = _verify_one(logits_RV[part], rows.take(part), draft, given)
            outcomes[index] = num_accepted, int(chosen_R[first + num_accepted]) if token is None else token
        first += len(draft) + 1
    return outcomes


def _verify_one(
    logits_KV: Tensor, rows: SamplingRows, draft: Sequence[int], given: Sequence[Distribution]
) -> tuple[int, int | None]:
    """How many tokens hold, and the one after them; None where the verifier's own choice comes next."""
    target_KV = warp(logits_KV, rows).softmax(-1)
    draft_KV = torch.zeros_like(target_KV)
    for row, token in enumerate(draft):
        _fill(draft_KV[row], token, given[row] if row < len(given) else None)
    kept, surplus_KV = keeping(target_KV, draft_KV, draft)
    passes = _uniforms(rows.key_R) <= torch.tensor(kept, dtype=torch.float64)
    num_accepted = int(passes.nonzero().max()) + 1 if bool(passes.any()) else 0
    if num_accepted == len(draft) or not bool(surplus_KV[num_accepted].any()):  # no surplus: rounding alone stops here
        return num_accepted, None
    noise_V = gumbel_RV(rows.key_R[num_accepted : num_accepted + 1], surplus_KV.shape[1])[0]
    return num_accepted, int(noise_V.add_(surplus_KV[num_accepted].log()).argmax())


def keeping(target_KV: Tensor, draft_KV: Tensor, draft: Sequence[int]) -> tuple[list[float], Tensor]:
    """The chance h_i of stopping no earlier than after i = 1 .. K tokens, and the surplus after i = 0 .. K - 1, [K, V].

    `target_KV` and `draft_KV` are probabilities at the drafted positions, `draft_KV` positive at each drafted token.
    """
    token_K1 = torch.tensor(draft, device=target_KV.device)[:, None]
    ratios = (target_KV.gather(1, token_K1) / draft_KV.gather(1, token_K1)).squeeze(1).tolist()
    may_keep = [1.0]
    for ratio in ratios:
        may_keep.append(min(1.0, may_keep[-1] * ratio))
    surplus_KV = _surplus(target_KV, draft_KV, torch.tensor(may_keep[:-1], device=target_KV.device))
    sums = surplus_KV.sum(-1).tolist()
    kept = [_share(total, 1.0 - may) for total, may in zip(sums[1:], may_keep[1:-1], strict=True)]
    return [*kept, may_keep[-1]], surplus_KV


def _surplus(target_KV: Tensor, draft_KV: Tensor, may_keep_K: Tensor) -> Tensor:
    """What the target, of what may be kept so far, has more of than the draft."""
    return (may_keep_K[:, None] * target_KV - draft_KV).clamp_min_(0.0)


def _share(surplus: float, lacking: float) -> float:
    return surplus / (surplus + lacking) if surplus + lacking > 0 else 1.0


def _uniforms(key_K: Tensor) -> Tensor:
    """One number in (0, 1) per position, independent of those of every round that begins elsewhere."""
    index_K = ACCEPT + torch.arange(len(key_K), device=key_K.device)
    return uniform(child_key(key_K[:1].expand_as(key_K), index_K)).cpu()


def _fill(draft_V: Tensor, token: int, given: Distribution | None) -> None:
    """Write a distribution into zeros; one that cannot have given this token is replaced by the token alone."""
    if given is not None and len(given.probabilities) == 4 * len(draft_V) and not given.token_ids:
        draft_V.copy_(_weights(given))
    elif given is not None and 0 < len(given.token_ids) == len(given.probabilities) and len(given.token_ids) % 4 == 0:
        ids = torch.frombuffer(bytearray(given.token_ids), dtype=torch.int32).long()
        if int(ids.min()) >= 0 and int(ids.max()) < len(draft_V):
            draft_V[ids.to(draft_V.device)] = _weights(given).to(draft_V.device)
    is_sound = bool(draft_V.min() >= 0) and abs(float(draft_V.sum()) - 1.0) < _TOLERANCE and bool(draft_V[token] > 0)
    if not is_sound:
        draft_V.zero_()
        draft_V[token] = 1.0


def _weights(given: Distribution) -> Tensor:
    return torch.frombuffer(bytearray(given.probabilities), dtype=torch.float32)
