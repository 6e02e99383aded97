"""The decoding core once more, slow and obvious: Python integers and floats, one token at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deployments.messages import SamplingParams

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def draw(state: int, index: int) -> int:
    """Output number `index` of SplitMix64 started at `state`."""
    z = (state + (index + 1) * GAMMA) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def noise_bits(seed: int, choice: int, position: int, token: int) -> int:
    return draw(draw(draw(seed & MASK, choice), position), token)


def gumbel(bits: int) -> float:
    w = ((bits & (2**63 - 1)) + 0.5) / 2.0**63
    return -math.log(-math.log1p(-min(w, 1 - 2.0**-53)))


def adjust(logits: Sequence[float], params: SamplingParams, context: Sequence[int]) -> list[float]:
    """The logits after `context`, adjusted: a loop over what each parameter says of each token."""
    output = list(context[params.num_prompt_tokens :])
    adjusted = list(logits)
    for token, bias in params.logit_bias:
        adjusted[token] += bias
    for token in set(context):
        factor = params.repetition_penalty
        adjusted[token] = adjusted[token] / factor if adjusted[token] > 0 else adjusted[token] * factor
    for token in set(output):
        adjusted[token] -= params.frequency_penalty * output.count(token) + params.presence_penalty
    if len(context) < params.banned_before:
        for token in params.banned_token_ids:
            adjusted[token] = -math.inf
    for word in params.bad_words:
        before = list(word[:-1])
        if not before or output[-len(before) :] == before:
            adjusted[word[-1]] = -math.inf
    if params.allowed_token_ids:
        adjusted = [x if token in params.allowed_token_ids else -math.inf for token, x in enumerate(adjusted)]
    return adjusted


def warp(logits: Sequence[float], params: SamplingParams) -> tuple[list[float], float]:
    """Scores, and how close the nearest cut came to falling elsewhere (a share of the mass, or a score)."""
    top = max(logits)
    if params.temperature == 0:
        return [logit - top for logit in logits], math.inf
    scores = [(logit - top) / params.temperature for logit in logits]
    margin = math.inf
    if params.top_k > 0:
        kth = sorted(scores, reverse=True)[min(params.top_k, len(scores)) - 1]
        # Equals stay together; what float32 may take for an equal is a close call.
        margin = min(margin, min((abs(score - kth) for score in scores if score != kth), default=math.inf))
        scores = [score if score >= kth else -math.inf for score in scores]
    if params.top_p < 1:
        mass = sum(map(math.exp, scores))
        before, cut = 0.0, 0.0
        for score in sorted(scores, reverse=True):
            if score > -math.inf:
                margin = min(margin, abs(before / mass - params.top_p))
            if before < params.top_p * mass:
                cut = score
            before += math.exp(score)
        scores = [score if score >= cut else -math.inf for score in scores]
    if params.min_p > 0:
        cut = min(math.log(params.min_p), 0.0)
        margin = min(margin, min(abs(score - cut) for score in scores))
        scores = [score if score >= cut else -math.inf for score in scores]
    return scores, margin


def distribution(logits: Sequence[float], params: SamplingParams) -> list[float]:
    scores, _ = warp(logits, params)
    mass = sum(map(math.exp, scores))
    return [math.exp(score) / mass for score in scores]


def choose(logits: Sequence[float], params: SamplingParams, position: int) -> tuple[int, float]:
    """The token, and by how much its perturbed score (or a cut) beats the next."""
    scores, margin = warp(logits, params)
    if params.temperature > 0:
        scores = [
            score + gumbel(noise_bits(params.seed, params.choice_index, position, token))
            for token, score in enumerate(scores)
        ]
    ranked = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    if params.temperature > 0 and len(scores) > 1:
        margin = min(margin, scores[ranked[0]] - scores[ranked[1]])
    return ranked[0], margin
