"""An answer that follows a grammar has the target's distribution over what is allowed, with or without proposals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from llguidance import LLMatcher
from msgspec import structs

from deployments.decoding.adjustments import Adjuster, RowGroup, adjust, adjuster_for
from deployments.decoding.drawing import Drawer
from deployments.decoding.rejection import verify
from deployments.decoding.rows import SamplingRows
from deployments.decoding.sampling import choose
from deployments.distributions import Distribution
from deployments.grammars import Grammars
from deployments.messages import SamplingParams
from tests.property.decoding.test_sampling_distribution import SIGNIFICANCE, fit
from tests.support import decoding_reference as reference
from tests.support.grammar_reference import TARGET, allowed

NUM_DRAWS, VOCAB = 1_500, 4096
PROMPT = [44, 7, 300]
GRAMMAR = LLMatcher.grammar_from_regex("[a-c]{2}[.!]")
PARAMS = [
    SamplingParams(temperature=1.0, num_prompt_tokens=3, grammar=GRAMMAR),
    SamplingParams(temperature=1.4, top_k=5, num_prompt_tokens=3, grammar=GRAMMAR),
    SamplingParams(temperature=0.9, top_p=0.9, frequency_penalty=0.7, num_prompt_tokens=3, grammar=GRAMMAR),
]


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars.load(TARGET)


def logits(seed: int) -> torch.Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 1.5


def adjuster(params: SamplingParams, grammars: Grammars) -> Adjuster:
    made = adjuster_for(params, grammars)
    assert made is not None
    made.extend(0, PROMPT)
    return made


def expected(params: SamplingParams, logits_V: torch.Tensor, output: list[int]) -> np.ndarray:
    """The slow reference's distribution after this output."""
    adjusted = reference.adjust(logits_V.tolist(), params, [*PROMPT, *output])
    may_come = allowed(params.grammar, output)
    return np.array(reference.distribution([x if t in may_come else -np.inf for t, x in enumerate(adjusted)], params))


def seeded(params: SamplingParams, position: int) -> SamplingRows:
    return SamplingRows.build([(structs.replace(params, seed=seed), position) for seed in range(NUM_DRAWS)])


@pytest.mark.parametrize("params", PARAMS, ids=["plain", "top_k", "top_p and penalty"])
def test_a_token_follows_the_targets_distribution_over_what_is_allowed(
    params: SamplingParams, grammars: Grammars
) -> None:
    target_V, one = logits(1), adjuster(params, grammars)
    groups = [RowGroup(one, row, 1, 3, ()) for row in range(NUM_DRAWS)]
    adjusted_RV = adjust(target_V.repeat(NUM_DRAWS, 1), groups)
    chosen = choose(adjusted_RV, seeded(params, 3), with_confidences=False)
    assert fit(chosen.tokens_R.numpy(), expected(params, target_V, [])) > SIGNIFICANCE
    unheld = choose(target_V.repeat(NUM_DRAWS, 1), seeded(params, 3), with_confidences=False)
    assert not set(unheld.tokens_R.tolist()) <= allowed(GRAMMAR, [])


@pytest.mark.parametrize("follows", [True, False], ids=["held drafter", "free drafter"])
@pytest.mark.parametrize("params", PARAMS, ids=["plain", "top_k", "top_p and penalty"])
def test_rejection_keeps_it_whether_or_not_the_drafter_follows_the_grammar(
    params: SamplingParams, follows: bool, grammars: Grammars
) -> None:
    """The first token of a round whose proposal has one token, over many seeds."""
    params = structs.replace(params, acceptance="rejection")
    target_V, draft_V, one = logits(1), logits(2) + 0.6 * logits(1), adjuster(params, grammars)
    draft_RV = draft_V.repeat(NUM_DRAWS, 1)
    if follows:
        draft_RV = adjust(draft_RV, [RowGroup(one, row, 1, 3, ()) for row in range(NUM_DRAWS)])
    drawn = Drawer()(draft_RV, seeded(params, 3), [3] * NUM_DRAWS)
    drafts = [(token,) for token in drawn.tokens_R.tolist()]
    distributions: list[tuple[Distribution, ...] | None] = [(drawn.distributions[i],) for i in range(NUM_DRAWS)]
    groups = [RowGroup(one, 2 * i, 2, 3, draft) for i, draft in enumerate(drafts)]
    rows = SamplingRows.build(
        [(structs.replace(params, seed=seed), position) for seed in range(NUM_DRAWS) for position in (3, 4)]
    )
    adjusted_RV = adjust(target_V.repeat(2 * NUM_DRAWS, 1), groups)
    outcomes = verify(adjusted_RV, rows, drafts, distributions, choose)
    first = [draft[0] if num else token for draft, (num, token) in zip(drafts, outcomes, strict=True)]
    assert fit(np.array(first), expected(params, target_V, [])) > SIGNIFICANCE
    if follows:
        assert sum(num for num, _ in outcomes) > NUM_DRAWS / 4
