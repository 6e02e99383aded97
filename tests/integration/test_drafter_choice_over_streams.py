"""The router chooses who drafts: real engines and streams, and a text that the library's own model judges."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from deployments.ingress.generation import GenerateRequest
from deployments.messages import Commit, SamplingParams
from tests.support.equality import SAFE_MARGIN, Reference
from tests.support.pocket import (
    TARGET,
    draft_model_engine,
    drafter_engine,
    safe_prompts,
    tokenizer,
    verifier_engine,
)
from tests.support.rig import Rig, running_rig

NUM_TOKENS = 240
GREEDY = SamplingParams()
REPEATS_ITSELF = "<bos>" + "x = 1\ny = 2\nz = 3\n" * 12


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(TARGET)


async def commits(rig: Rig, prompt: tuple[int, ...], num_tokens: int, **changes: object) -> list[Commit]:
    request = GenerateRequest(
        id="r0", prompt=prompt, max_context_tokens=len(prompt) + num_tokens, params=GREEDY, **changes
    )
    return [commit async for commit in rig.client.generate(request)]


def drafters_of(found: list[Commit]) -> Counter[str]:
    return Counter(commit.drafter for commit in found if commit.num_drafted)


async def test_a_text_that_repeats_its_prompt_ends_on_prompt_lookup_and_is_the_same(reference: Reference) -> None:
    prompt = tuple(tokenizer().encode(REPEATS_ITSELF, add_special_tokens=False))
    expected = reference.generate(prompt, GREEDY, NUM_TOKENS, stop=())
    assert min(reference.margins(prompt, expected, GREEDY)) >= SAFE_MARGIN
    settings = {"drafter": "auto", "policy": "constant", "num_speculative_tokens": 4}
    drafting = {"drafters": [drafter_engine()], "token_drafters": [draft_model_engine()]}
    async with running_rig(verifiers=[verifier_engine()], router=settings, **drafting) as rig:
        found = await asyncio.wait_for(commits(rig, prompt, NUM_TOKENS), 60)
    assert [token for commit in found for token in commit.tokens] == expected
    late = drafters_of([commit for commit in found if commit.context_len > len(prompt) + NUM_TOKENS // 2])
    assert late["prompt_lookup"] >= 0.9 * late.total()
    assert drafters_of(found[:6])["mtp"], "it began with the assistant"


async def test_other_texts_are_drafted_by_models_and_are_the_same(reference: Reference) -> None:
    settings = {"drafter": "auto", "policy": "constant", "num_speculative_tokens": 4}
    drafting = {"drafters": [drafter_engine()], "token_drafters": [draft_model_engine()]}
    async with running_rig(verifiers=[verifier_engine()], router=settings, **drafting) as rig:
        drafted: Counter[str] = Counter()
        for prompt, _, expected in safe_prompts(reference, [GREEDY], 8, 48):
            stop = tuple(reference.eos_token_ids)
            found = await asyncio.wait_for(commits(rig, prompt, 48, stop_token_ids=stop), 60)
            assert [token for commit in found for token in commit.tokens] == expected
            drafted += drafters_of(found)
    assert drafted["mtp"] + drafted["draft_model"] > drafted["prompt_lookup"], drafted
