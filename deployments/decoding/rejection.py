"""Which drafted tokens hold under rejection sampling (Leviathan et al. 2023, arXiv 2211.17192).

A token drawn from `draft` is kept with probability min(1, target / draft); in place of the first that
is not comes one drawn from max(0, target - draft), and after a proposal that is kept whole one drawn
from the target. So every committed token follows the target's distribution. The bits behind the
acceptance of a position are independent of those behind its draft, and the verifier's own tokens
come from the noise that it would use without any proposal.

A token whose distribution is not known, or makes no sense, counts as drawn from itself alone: for a
given token that is right whatever made it, only kept less often.

Greedy rows go by equality. Shapes: R = rows, K = tokens of a proposal, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deployments.decoding.acceptance import accept
from deployments.decoding.noise import ACCEPT, child_key, gumbel_RV, uniform
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose, warp
from deployments.distributions import Distribution

_TOLERANCE = 1e-3


def verify(
    logits_RV: Tensor,
    rows: SamplingRows,
    drafts: Sequence[Sequence[int]],
    distributions: Sequence[Sequence[Distribution]],
) -> list[tuple[int, int]]:
    """One (number of accepted tokens, next token) per proposal; rows as for `accept`.

    `distributions[i]` has what each token of proposal i was drawn from, or is shorter.
    """
    chosen_R = choose(logits_RV, rows, with_confidences=False).tokens_R
    outcomes = accept(chosen_R, drafts)
    if rows.is_all_greedy:
        return outcomes
    is_sampled = (rows.temperature_R > 0).tolist()
    first = 0
    for index, draft in enumerate(drafts):
        if draft and is_sampled[first]:
            part = slice(first, first + len(draft))
            num_accepted, token = _verify_one(logits_RV[part], rows.take(part), draft, distributions[index])
            outcomes[index] = num_accepted, int(chosen_R[first + num_accepted]) if token is None else token
        first += len(draft) + 1
    return outcomes


def _verify_one(
    logits_KV: Tensor, rows: SamplingRows, draft: Sequence[int], given: Sequence[Distribution]
) -> tuple[int, int | None]:
    """How many tokens hold, and the recovered one; None where the verifier's own choice comes next."""
    target_KV = warp(logits_KV, rows).softmax(-1)
    draft_KV = torch.zeros_like(target_KV)
    for row, token in enumerate(draft):
        _fill(draft_KV[row], token, given[row] if row < len(given) else None)
    token_K1 = torch.tensor(draft, device=target_KV.device)[:, None]
    uniform_K = uniform(child_key(rows.key_R, torch.full_like(rows.key_R, ACCEPT)))
    is_kept_K = uniform_K * draft_KV.gather(1, token_K1).squeeze(1) < target_KV.gather(1, token_K1).squeeze(1)
    num_accepted = int(is_kept_K.cumprod(0).sum())
    if num_accepted == len(draft):
        return num_accepted, None
    residual_V = _residual(target_KV[num_accepted], draft_KV[num_accepted])
    if not bool(residual_V.any()):  # both are equal, and rounding alone has rejected
        return num_accepted, None
    noise_V = gumbel_RV(rows.key_R[num_accepted : num_accepted + 1], len(residual_V))[0]
    return num_accepted, int(noise_V.add_(residual_V.log()).argmax())


def _residual(target_V: Tensor, draft_V: Tensor) -> Tensor:
    """What the target has more of than the draft, as weights."""
    return (target_V - draft_V).clamp_min(0.0)


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
