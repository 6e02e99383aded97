"""What "the same output" means (DESIGN.md 4), and the slow, obvious reference it is judged by.

    reference = Reference(folder)
    tally = Tally(reference)
    expected = reference.generate(prompt, params, 48)
    tally.check(prompt, params, expected, got)     # raises unless equal or a near-tie at the first difference
    tally.close()                                  # prints the counts, raises when near-ties are too many

Shapes: T tokens of a sequence, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

import deployments.models
from deployments.decoding.noise import gumbel_RV
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose, warp
from deployments.messages import SamplingParams, Token
from deployments.models.loading import cache_keyword, load_target
from tests.support import decoding_reference, grammar_reference

POCKET = Path(deployments.models.__file__).parent / "pocket"
NEAR_TIE = 1e-4
SAFE_MARGIN = 1e-3
_MAX_NEAR_TIES_PER_100K = 3


class Reference:
    """The library's own model, one sequence at a time, float32: what the served output is compared with.

    Whatever device the model is on, its logits come to the CPU before anything is chosen from them.
    """

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        target = load_target(str(folder), dtype=torch.float32, device=device)
        self.model = target.model
        self.eos_token_ids = target.eos_token_ids
        self._answers: dict[tuple[object, ...], list[Token]] = {}

    def generate(
        self, prompt: Sequence[Token], params: SamplingParams, num_tokens: int, *, stop: Sequence[Token] = ()
    ) -> list[Token]:
        """Up to `num_tokens` new tokens, one forward pass each; the first of `stop` ends them and is kept.

        A question that was asked before is answered from memory.
        """
        question = (tuple(prompt), params, num_tokens, tuple(stop))
        if question not in self._answers:
            self._answers[question] = self._generate(prompt, params, num_tokens, stop)
        return list(self._answers[question])

    @torch.inference_mode()
    def _generate(
        self, prompt: Sequence[Token], params: SamplingParams, num_tokens: int, stop: Sequence[Token]
    ) -> list[Token]:
        tokens, cache = list(prompt), DynamicCache(config=self.model.config)
        keyword = cache_keyword(self.model)
        unread = tokens
        while len(tokens) < len(prompt) + num_tokens:
            ids = torch.tensor([unread], device=self.model.device)
            logits_1V = self.model(ids, logits_to_keep=1, **{keyword: cache}).logits[:, -1].cpu()
            rows = SamplingRows.build([(params, len(tokens))])
            logits_1V = adjusted(logits_1V[0], params, tokens)[None]
            unread = [int(choose(logits_1V, rows, with_confidences=False).tokens_R[0])]
            tokens += unread
            if unread[0] in stop:
                break
        return tokens[len(prompt) :]

    @torch.inference_mode()
    def generate_greedy_by_library(self, prompt: Sequence[Token], num_tokens: int, **options: Any) -> list[Token]:
        """New tokens of the library's `generate`, greedy; its own end-of-text handling and `options` apply."""
        ids = torch.tensor([list(prompt)], device=self.model.device)
        output = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=False, **options
        )
        new_tokens: list[Token] = output[0, len(prompt) :].tolist()
        return new_tokens

    @torch.inference_mode()
    def logits(self, tokens: Sequence[Token]) -> torch.Tensor:
        """Teacher-forced logits after every token, one pass over the whole sequence, shape (T, V)."""
        ids = torch.tensor([list(tokens)], device=self.model.device)
        logits_TV: torch.Tensor = self.model(ids).logits[0]
        return logits_TV.cpu()

    def margins(self, prompt: Sequence[Token], tokens: Sequence[Token], params: SamplingParams) -> list[float]:
        """For each of `tokens`, how far the reference's choice there is from being another one."""
        first = len(prompt)
        logits_TV = self.logits([*prompt, *tokens])
        known = [*prompt, *tokens]
        return [
            margin(adjusted(logits_TV[first + i - 1], params, known[: first + i]), params, first + i)
            for i in range(len(tokens))
        ]


@lru_cache(maxsize=16)
def reference_of(folder: Path) -> Reference:
    """The reference of all tests that ask for the same model, which is in this folder for as long as they run."""
    return Reference(folder)


class Tally:
    """Compares outputs with their reference, counting tokens and near-ties."""

    def __init__(self, reference: Reference, log: Callable[[str], None] = print) -> None:
        self.num_tokens = 0
        self.num_near_ties = 0
        self._reference = reference
        self._log = log

    def check(
        self, prompt: Sequence[Token], params: SamplingParams, expected: Sequence[Token], got: Sequence[Token]
    ) -> None:
        """Accept equal outputs, and a first difference where the reference itself stands on a near-tie."""
        pairs = zip(expected, got, strict=False)
        first = next((i for i, (one, other) in enumerate(pairs) if one != other), None)
        if first is None:
            assert len(expected) == len(got), f"{len(got)} tokens instead of {len(expected)}, equal so far"
            self.num_tokens += len(expected)
            return
        at_difference = self._reference.margins(prompt, expected[: first + 1], params)[-1]
        self._log(
            f"output {first} is {got[first]}, not {expected[first]}; the reference's margin is {at_difference:.1e}"
        )
        assert at_difference <= NEAR_TIE, (
            f"output {first} is {got[first]} instead of {expected[first]}, and no near-tie: margin {at_difference:.2e}"
        )
        self.num_tokens += first + 1
        self.num_near_ties += 1

    def close(self) -> None:
        """Print the counts; near-ties must stay within 3 in 100,000 tokens (or 3 in fewer)."""
        self._log(f"{self.num_tokens} tokens compared, {self.num_near_ties} near-ties")
        allowed = _MAX_NEAR_TIES_PER_100K * math.ceil(max(self.num_tokens, 1) / 100_000)
        assert self.num_near_ties <= allowed, f"{self.num_near_ties} near-ties in {self.num_tokens} tokens"


def adjusted(logits_V: torch.Tensor, params: SamplingParams, context: Sequence[Token]) -> torch.Tensor:
    """Logits after penalties, biases, bans and the pocket pair's grammars, by the slow reference."""
    if not params.adjusts_logits:
        return logits_V
    adjusted_V = torch.tensor(decoding_reference.adjust(logits_V.tolist(), params, context))
    if params.grammar:
        allowed = grammar_reference.allowed(params.grammar, context[params.num_prompt_tokens :])
        adjusted_V[[token for token in range(len(adjusted_V)) if token not in allowed]] = -torch.inf
    return adjusted_V


@torch.inference_mode()
def margin(logits_V: torch.Tensor, params: SamplingParams, position: int) -> float:
    """How much scores or cuts must move before another token is chosen; 1e-4 or less is a near-tie.

    Scores are logits over temperature plus noise. A cut counts where it decides: how deep inside it
    the chosen token stands, and how far outside it those stand that would beat it.
    """
    if params.temperature == 0:
        best, second = logits_V.topk(2).values.tolist()
        return best - second
    plain = SamplingParams(temperature=params.temperature)
    score_V = warp(logits_V[None], SamplingRows.build([(plain, position)]))[0]
    rows = SamplingRows.build([(params, position)])
    is_kept_V = warp(logits_V[None], rows)[0].isfinite()
    noise_V = gumbel_RV(rows.key_R, len(logits_V))[0]
    perturbed_V = score_V + noise_V
    best, second = perturbed_V.masked_fill(~is_kept_V, -torch.inf).topk(2).values.tolist()
    outside_V = _distance_outside(score_V, params)
    rivals_V = ~is_kept_V & (perturbed_V > best)
    chosen_V = is_kept_V & (perturbed_V == best)
    nearest_rival = float(outside_V[rivals_V].abs().min()) if rivals_V.any() else math.inf
    return min(best - second, nearest_rival, float(outside_V[chosen_V].abs().min()))


def _distance_outside(score_V: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """How far each token stands outside the nearest cut: in score for top-k and min-p, in mass for top-p."""
    order_V = score_V.argsort(descending=True)
    sorted_V = score_V[order_V].double()
    distance_V = torch.full_like(sorted_V, -torch.inf)
    kept = len(sorted_V)
    if 0 < params.top_k < kept:
        kept = params.top_k
        threshold_V = torch.where(torch.arange(len(sorted_V)) < kept, sorted_V[kept], sorted_V[kept - 1])
        distance_V = torch.maximum(distance_V, threshold_V - sorted_V)
    if params.top_p < 1:
        mass_V = sorted_V[:kept].softmax(0)
        before_V = torch.ones_like(sorted_V)
        before_V[:kept] = mass_V.cumsum(0) - mass_V
        distance_V = torch.maximum(distance_V, before_V - params.top_p)
    if params.min_p > 0:
        distance_V = torch.maximum(distance_V, math.log(params.min_p) - sorted_V)
    return torch.empty_like(distance_V).scatter_(0, order_V, distance_V)
