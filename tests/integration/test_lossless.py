"""Speculation never changes the output: real engines and streams, judged by the library's own model."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.drafter.token_service import TokenDrafterService, TokenDrafterSettings
from deployments.ingress.generation import GenerateRequest
from deployments.messages import Delta, DeltaItem, DrafterName, Message, SamplingParams
from tests.support.equality import Reference, Tally
from tests.support.pocket import (
    TARGET,
    chat_prompts,
    draft_model_engine,
    drafter_engine,
    make_request,
    outputs,
    safe_prompts,
    verifier_engine,
)
from tests.support.rig import running_rig

NUM_TOKENS = 48
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, seed=2**63 + 11)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(TARGET)


@pytest.fixture(scope="module")
def engines():
    return verifier_engine(), drafter_engine()


def make(index: int, prompt: tuple[int, ...], params: SamplingParams, **changes: object) -> GenerateRequest:
    return make_request(index, prompt, params, NUM_TOKENS, **changes)


REMOTE: list[dict[str, object]] = [
    {"drafter": "none"},
    {"drafter": "prompt_lookup"},
    *({"drafter": "mtp", "num_speculative_tokens": k} for k in (0, 1, 3, 8)),
    *({"drafter": "draft_model", "num_speculative_tokens": k} for k in (1, 5)),
]
INSIDE: list[dict[str, object]] = [
    *({"drafter": "mtp", "num_speculative_tokens": k} for k in (1, 4)),
    *({"drafter": "draft_model", "num_speculative_tokens": k} for k in (1, 4)),
]
DRAFTERS: tuple[DrafterName, ...] = ("auto", "draft_model", "prompt_lookup")


@pytest.mark.parametrize("placement", ["remote", "colocated"])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_eight_prompts_with_every_lookahead_and_drafter_alone_and_in_company(
    engines, reference, params, placement
):
    stop = reference.eos_token_ids
    prompts = chat_prompts(8, seed=3)
    expected = [reference.generate(prompt, params, NUM_TOKENS, stop=stop) for prompt in prompts]
    tally = Tally(reference)
    company = chat_prompts(16, seed=4)
    draft_model = draft_model_engine()
    if placement == "remote":
        drafting = {"drafters": [engines[1]], "token_drafters": [draft_model]}
    else:
        inside = {
            "mtp": DrafterService(engines[1], DrafterSettings()),
            "draft_model": TokenDrafterService(draft_model, TokenDrafterSettings(drafts_ahead=False)),
        }
        drafting = {"inside": lambda: inside}
    async with running_rig(verifiers=[engines[0]], **drafting) as rig:
        for changes in REMOTE if placement == "remote" else INSIDE:
            for index, prompt in enumerate(prompts):
                alone = await rig.generate(make(index, prompt, params, **changes))
                tally.check(prompt, params, expected[index], alone)
            crowd = [
                make(100 + i, prompt, SAMPLED, num_speculative_tokens=i % 6, drafter=DRAFTERS[i % 3])
                for i, prompt in enumerate(company)
            ]
            made = [make(i, prompt, params, **changes) for i, prompt in enumerate(prompts)]
            together = (await outputs(rig, [*made, *crowd]))[: len(prompts)]
            for prompt, wanted, got in zip(prompts, expected, together, strict=True):
                tally.check(prompt, params, wanted, got)
        services = [node.service for node in rig.of("drafter")] or list(inside.values())
        assert len(services) == 2
        assert all(service.stats.num_draft_tokens > 0 for service in services)
    tally.close()
    engines[0].check_integrity()
    draft_model.check_integrity()


@pytest.mark.parametrize("spoil", [bytes, lambda size: b"\xff" * size, lambda size: b"\x01" * (size // 2)])
async def test_a_drafter_fed_garbage_changes_no_token(engines, reference, spoil):
    """Shadows of zeros, of NaN and of the wrong size; the proposals are as bad as can be."""
    safe = safe_prompts(reference, [GREEDY, SAMPLED], 4, NUM_TOKENS)

    def bend(_link: object, message: Message) -> Message:
        if not isinstance(message, Delta):
            return message
        return Delta(items=tuple(spoiled(item) for item in message.items))

    def spoiled(item: DeltaItem) -> DeltaItem:
        ranges = tuple(
            msgspec.structs.replace(r, keys=spoil(len(r.keys)), values=spoil(len(r.values))) for r in item.ranges
        )
        return msgspec.structs.replace(item, ranges=ranges, hidden=spoil(len(item.hidden)))

    settings = {"proposal_timeout_s": 0.2}
    async with running_rig(verifiers=[engines[0]], drafters=[drafter_engine()], router=settings) as rig:
        rig.of("drafter")[0].tap.bend = bend
        made = [make(i, prompt, params, num_speculative_tokens=4) for i, (prompt, params, _) in enumerate(safe)]
        got = await outputs(rig, made)
    assert got == [expected for _, _, expected in safe]


async def test_faults_in_the_middle_change_no_token(reference):
    """A drafter and a verifier die while sixteen sessions run; every output is the reference's."""
    safe = safe_prompts(reference, [GREEDY, SAMPLED], 16, NUM_TOKENS)
    verifiers, drafters = [verifier_engine(), verifier_engine()], [drafter_engine(), drafter_engine()]
    async with running_rig(verifiers=verifiers, drafters=drafters, num_routers=2) as rig:
        made = [make(i, prompt, params, num_speculative_tokens=4) for i, (prompt, params, _) in enumerate(safe)]
        running = asyncio.create_task(outputs(rig, made))
        for role, when in (("drafter", 4), ("verifier", 8), ("router", 12)):
            while rig.of("verifier")[1].service.num_steps < when and not running.done():
                await asyncio.sleep(0.001)
            rig.of(role)[0].kill()
        got = await running
    for (_, _, expected), output in zip(safe, got, strict=True):
        assert output == expected
