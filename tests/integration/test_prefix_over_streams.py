"""What a verifier knows already is not computed again, whoever drafts; tenants know nothing of each other."""

from __future__ import annotations

import asyncio

import pytest

from deployments.drafter.fake_engine import FakeDrafterEngine
from deployments.ingress.generation import GenerateRequest
from deployments.messages import SamplingParams
from deployments.verifier.fake_engine import FakeEngine, toy_next_token
from tests.support.rig import running_rig

PROMPT = tuple(range(1, 30))


def request(salt: str, index: int) -> GenerateRequest:
    params = SamplingParams(seed=3)
    return GenerateRequest(id=f"r{index}", prompt=PROMPT, max_context_tokens=60, params=params, salt=salt)


def reference() -> list[int]:
    tokens = list(PROMPT)
    while len(tokens) < 60:
        tokens.append(toy_next_token(tokens, seed=3, vocab_size=50))
    return tokens[len(PROMPT) :]


@pytest.mark.parametrize("num_reused", [0, 12, 28, 100])
async def test_steps_begin_where_the_known_ends_and_the_drafter_gets_all(num_reused: int) -> None:
    engine, drafter = FakeEngine(num_reused=num_reused), FakeDrafterEngine()
    async with running_rig(
        verifiers=[engine], drafters=[drafter], verifier={"max_step_tokens": 9, "prompt_tokens": 9}
    ) as rig:
        num_known = min(num_reused, len(PROMPT) - 1)
        for index in range(2):
            commits = [commit async for commit in rig.client.generate(request("a tenant", index))]
            assert [token for commit in commits for token in commit.tokens] == reference()
            assert [commit.num_cached for commit in commits] == [num_known] + [0] * (len(commits) - 1)
        first = next(chunk for chunk in engine.steps[0])
        assert first.start == num_known
        assert drafter.batches  # it asserts that its shadow begins at 0 and has no gap
        assert [prefix.salt for prefix in engine.prefixes if prefix] == ["a tenant"] * 2
        assert all(prefix and prefix.tokens == PROMPT for prefix in engine.prefixes)


async def test_without_prefix_reuse_the_engine_is_told_of_no_prefix() -> None:
    engine = FakeEngine(num_reused=12)
    async with running_rig(verifiers=[engine], verifier={"reuses_prefixes": False}) as rig:
        assert await asyncio.wait_for(rig.generate(request("a", 0)), 30) == reference()
    assert engine.prefixes == [None]
