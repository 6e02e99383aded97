"""Two tenants and two routers share a verifier whose steps are too small for all, over real streams."""

from __future__ import annotations

import asyncio

from deployments.drafter.fake_engine import FakeDrafterEngine
from deployments.ingress.generation import GenerateRequest
from deployments.messages import SamplingParams
from deployments.verifier.fake_engine import FakeEngine, toy_next_token
from tests.support.rig import Rig, running_rig

VOCAB, LENGTH, CROWD = 50, 40, 16
SMALL = {"max_step_tokens": 24, "prompt_tokens": 8, "max_step_sessions": 6, "can_split": False}


def request(tenant: str, index: int, num_prompt_tokens: int = 5) -> GenerateRequest:
    prompt = tuple((index * 7 + step) % VOCAB for step in range(num_prompt_tokens))
    return GenerateRequest(
        id=f"{tenant}-{index}",
        prompt=prompt,
        max_context_tokens=len(prompt) + LENGTH,
        params=SamplingParams(seed=index),
        num_speculative_tokens=3,
        salt=tenant,
    )


async def check(rig: Rig, asked: GenerateRequest) -> None:
    """The text is the toy target's own."""
    tokens = list(asked.prompt)
    while len(tokens) < asked.max_context_tokens:
        tokens.append(toy_next_token(tokens, seed=asked.params.seed, vocab_size=VOCAB))
    assert await rig.generate(asked) == tokens[len(asked.prompt) :]


async def test_a_crowd_of_one_tenant_and_its_long_prompts_do_not_hold_up_another() -> None:
    engine = FakeEngine()
    async with (
        asyncio.timeout(120),
        running_rig(
            verifiers=[engine],
            drafters=[FakeDrafterEngine()],
            num_routers=2,
            verifier=SMALL,
            router={"proposal_timeout_s": 30.0},
        ) as rig,
    ):
        crowd = asyncio.gather(*(check(rig, request("crowd", index, 150)) for index in range(CROWD)))
        while len(engine.steps) < 20:
            await asyncio.sleep(0.001)
        begun = len(engine.steps)
        await check(rig, request("alone", 99))
        needed = len(engine.steps) - begun
        assert not crowd.done()
        await crowd
    # A round of its own takes a step, or two when it has just missed one; its prompt one or two more.
    assert needed <= 3 * (LENGTH + 2), f"{needed} of {len(engine.steps)} steps"
