"""Drafters inside the verifier's process: the same rounds without a hop, and the same output."""

from __future__ import annotations

import asyncio

import pytest

from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.drafter.token_service import TokenDrafterService, TokenDrafterSettings
from deployments.messages import Delta, DrafterKind, Introduce, Proposal
from deployments.verifier.fake_engine import FakeEngine
from tests.integration.test_rounds_over_streams import check_all, requests, toy_drafter, toy_token_drafter, until
from tests.support.rig import AnyDrafter, Rig, running_rig

KINDS: tuple[DrafterKind, ...] = ("mtp", "draft_model")


def services(holder: list[Rig], agreement: float) -> dict[DrafterKind, AnyDrafter]:
    tokens = toy_token_drafter(agreement)
    return {
        "mtp": DrafterService(toy_drafter(holder, agreement), DrafterSettings()),
        "draft_model": TokenDrafterService(tokens, TokenDrafterSettings(drafts_ahead=False)),
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("agreement", [0.0, 0.7, 1.0])
async def test_a_drafter_inside_changes_no_token_and_its_deltas_meet_no_stream(kind: DrafterKind, agreement: float):
    holder: list[Rig] = []
    inside = services(holder, agreement)
    async with running_rig(verifiers=[FakeEngine()], inside=lambda: inside, router={"drafter": kind}) as rig:
        holder.append(rig)
        await check_all(rig, requests(6, num_speculative_tokens=4))
        assert inside[kind].stats.num_draft_tokens > 0
        (router,), (verifier,) = rig.of("router"), rig.of("verifier")
        assert router.tap.count(Introduce) == 2
        assert 0 < router.tap.count(Proposal) <= inside[kind].stats.num_batches
        assert verifier.tap.count(Delta) == 0
        await until(lambda: inside[kind].num_sessions == 0)


async def test_a_session_uses_the_drafter_of_its_own_verifier_and_both_may_die_together():
    holder: list[Rig] = []
    made: list[dict[DrafterKind, AnyDrafter]] = []

    def inside() -> dict[DrafterKind, AnyDrafter]:
        made.append(services(holder, 0.8))
        return made[-1]

    async with running_rig(verifiers=[FakeEngine(), FakeEngine()], inside=inside) as rig:
        holder.append(rig)
        running = asyncio.create_task(check_all(rig, requests(8)))
        await until(lambda: all(services["mtp"].stats.num_draft_tokens > 40 for services in made))
        assert [services["mtp"].num_sessions for services in made] == [4, 4]
        rig.of("verifier")[0].kill()
        await running
        assert made[1]["mtp"].stats.num_draft_tokens > made[0]["mtp"].stats.num_draft_tokens


async def test_remote_and_colocated_drafters_serve_side_by_side():
    holder: list[Rig] = []
    inside = {"mtp": DrafterService(toy_drafter(holder, 0.8), DrafterSettings())}
    remote = toy_token_drafter(0.8)
    async with running_rig(verifiers=[FakeEngine()], token_drafters=[remote], inside=lambda: inside) as rig:
        holder.append(rig)
        await check_all(rig, requests(4))
        await check_all(rig, requests(4, drafter="draft_model"))
        assert inside["mtp"].stats.num_draft_tokens > 0
        assert remote.batches
