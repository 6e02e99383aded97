"""Two hundred prompts nobody trained on, drafted for, batched and verified: the library's own greedy text."""

from __future__ import annotations

import asyncio

import pytest

from deployments.ingress.generation import GenerateRequest
from deployments.messages import SamplingParams
from tests.support.equality import Reference, Tally
from tests.support.pocket import TARGET, chat_prompts, drafter_engine, stop_token_ids, verifier_engine
from tests.support.rig import running_rig

NUM_PROMPTS, NUM_TOKENS, NUM_AT_ONCE = 200, 48, 8


@pytest.mark.system
async def test_two_hundred_prompts_equal_the_librarys_generate() -> None:
    reference = Reference(TARGET)
    tally = Tally(reference)
    prompts = chat_prompts(NUM_PROMPTS, seed=11)
    places = asyncio.Semaphore(NUM_AT_ONCE)
    async with running_rig(verifiers=[verifier_engine()], drafters=[drafter_engine()]) as rig:

        async def answer(index: int) -> list[int]:
            request = GenerateRequest(
                id=f"r{index}",
                prompt=prompts[index],
                max_context_tokens=len(prompts[index]) + NUM_TOKENS,
                params=SamplingParams(),
                stop_token_ids=stop_token_ids(),
                num_speculative_tokens=index % 7,
            )
            async with places:
                return await rig.generate(request)

        answers = await asyncio.gather(*(answer(index) for index in range(NUM_PROMPTS)))
    for prompt, got in zip(prompts, answers, strict=True):
        expected = reference.generate_greedy_by_library(prompt, NUM_TOKENS)
        tally.check(prompt, SamplingParams(), expected, got)
    tally.close()
