"""Log-probabilities of chosen tokens and of the likeliest ones, under the softmax of raw logits.

Shapes: R = rows, V = vocabulary, N = likeliest tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deployments.decoding.noise import row_slices
from deployments.messages import Token, TokenLogprobs


def logprobs(logits_RV: Tensor, tokens: Sequence[Token], nums_top: Sequence[int]) -> list[TokenLogprobs]:
    """For each row the log-probability of its token, and of as many of the likeliest ones as it asks for."""
    found: list[TokenLogprobs] = []
    for part in row_slices(len(tokens), logits_RV.shape[1], logits_RV.device):
        found.extend(_part(logits_RV[part], tokens[part], nums_top[part]))
    return found


def _part(logits_RV: Tensor, tokens: Sequence[Token], nums_top: Sequence[int]) -> list[TokenLogprobs]:
    logprob_RV = logits_RV.float().log_softmax(-1)
    chosen_R = logprob_RV.gather(1, torch.tensor(tokens, device=logits_RV.device)[:, None]).squeeze(1).tolist()
    num_top = min(max(nums_top), logits_RV.shape[1])
    values, indices = logprob_RV.topk(num_top)
    rows = zip(tokens, chosen_R, indices.tolist(), values.tolist(), nums_top, strict=True)
    return [
        TokenLogprobs(token=token, logprob=chosen, top=tuple(zip(top[:num], top_values[:num], strict=True)))
        for token, chosen, top, top_values, num in rows
    ]
