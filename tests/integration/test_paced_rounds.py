"""Paced roles give the tokens of unpaced ones: real engines and streams, at the speed of a table."""

from __future__ import annotations

import asyncio
from typing import Any

from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.ingress.generation import GenerateRequest
from deployments.messages import Proposal, SamplingParams, Verdict
from deployments.pacing import Pace, PacedService
from deployments.policy.hardware import pairs
from deployments.verifier.service import VerifierService, VerifierSettings
from tests.support.equality import Reference
from tests.support.pocket import TARGET, drafter_engine, safe_prompts, stop_token_ids, verifier_engine
from tests.support.rig import Rig

HARDWARE = "h100x2-l4-31b"
NUM_TOKENS, LONG = 40, 96
PARAMS = [SamplingParams(), SamplingParams(temperature=0.8, seed=11)]


async def add_paced_roles(rig: Rig) -> None:
    pair = pairs()[HARDWARE]
    draft_pace: Pace[Any] = Pace(HARDWARE, "drafter", pair.draft.predict)
    drafter = DrafterService(drafter_engine(), DrafterSettings(), pace=draft_pace)
    await rig._add("drafter", PacedService(drafter, draft_pace))
    pace = Pace(HARDWARE, "verifier", pair.verify.predict)
    verifier = VerifierService(verifier_engine(), VerifierSettings(), pace=pace)
    await rig._add("verifier", PacedService(verifier, pace))


def requests_of(
    wanted: list[tuple[tuple[int, ...], SamplingParams, Any]], num_tokens: int = NUM_TOKENS
) -> list[GenerateRequest]:
    return [
        GenerateRequest(
            id=f"r{index}",
            prompt=prompt,
            max_context_tokens=len(prompt) + num_tokens,
            params=params,
            stop_token_ids=stop_token_ids(),
        )
        for index, (prompt, params, _) in enumerate(wanted)
    ]


async def test_paced_sessions_give_the_reference_and_their_verdicts_tell_the_tables_time() -> None:
    wanted = safe_prompts(Reference(TARGET), PARAMS, 6, NUM_TOKENS)
    rig = Rig()
    try:
        await add_paced_roles(rig)
        router = await rig.add_router(num_speculative_tokens=4)
        requests = requests_of(wanted)
        got = await asyncio.wait_for(asyncio.gather(*(rig.generate(request) for request in requests)), 120)
    finally:
        await rig.close()
    assert got == [output for _, _, output in wanted]
    pair = pairs()[HARDWARE]
    verdicts = [message for _, message in router.tap.messages if isinstance(message, Verdict)]
    proposals = [message for _, message in router.tap.messages if isinstance(message, Proposal)]
    assert len(verdicts) > 5
    assert len(proposals) > 5
    # A late timer's millisecond may be taken off the next step.
    assert min(verdict.step_ms for verdict in verdicts) > pair.verify.step_ms[0] - 2
    assert min(proposal.draft_ms / proposal.longest for proposal in proposals) > pair.draft.step_ms - 2


async def test_sessions_that_came_at_different_times_are_drafted_for_together_and_give_the_reference() -> None:
    # Answers so long that none has ended before the groups meet, however busy the machine is.
    wanted = [one for one in safe_prompts(Reference(TARGET), PARAMS, 20, LONG) if len(one[2]) == LONG][:6]
    assert len(wanted) == 6
    rig = Rig()
    try:
        await add_paced_roles(rig)
        router = await rig.add_router(num_speculative_tokens=10)  # a draft takes three times as long as a step
        requests = requests_of(wanted, LONG)
        first, second = requests[:3], requests[3:]

        async def come_later(request: GenerateRequest) -> Any:
            async with asyncio.timeout(60):
                while sum(isinstance(message, Proposal) for _, message in router.tap.messages) < 2:
                    await asyncio.sleep(0.002)
            await asyncio.sleep(0.015)  # while the first ones' next draft is under way
            return await rig.generate(request)

        running = [*map(rig.generate, first), *map(come_later, second)]
        got = await asyncio.wait_for(asyncio.gather(*running), 120)
    finally:
        await rig.close()
    assert got == [output for _, _, output in wanted]
    proposals = [message for _, message in router.tap.messages if isinstance(message, Proposal)]
    assert len(proposals[0].items) <= 3
    assert max(len(proposal.items) for proposal in proposals) == 6
