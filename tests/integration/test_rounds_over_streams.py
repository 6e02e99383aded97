"""Rounds over real streams with toy engines: whatever is lost, late or wrong, the output is the target's own."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from deployments.drafter.fake_engine import FakeDrafterEngine, garbage
from deployments.drafter.fake_token_engine import FakeTokenEngine
from deployments.ingress.generation import GenerateRequest
from deployments.messages import (
    Attach,
    Commits,
    Delta,
    Draft,
    Load,
    Message,
    Need,
    Proposal,
    SamplingParams,
    Token,
    Verdict,
    Verify,
)
from deployments.verifier.engine import Chunk, Outcome
from deployments.verifier.fake_engine import FakeEngine, toy_next_token, toy_proposal
from tests.support.certificates import issue, make_authority, settings_with
from tests.support.rig import Rig, running_rig

VOCAB = 50
LENGTH = 60


def reference(request: GenerateRequest) -> list[int]:
    """The toy target's own output."""
    tokens = list(request.prompt)
    while len(tokens) < request.max_context_tokens and tokens[-1] not in request.stop_token_ids:
        tokens.append(toy_next_token(tokens, seed=request.params.seed, vocab_size=VOCAB))
    return tokens[len(request.prompt) :]


def requests(count: int, **changes: object) -> list[GenerateRequest]:
    made = []
    for index in range(count):
        prompt = tuple((index * 7 + step) % VOCAB for step in range(3 + index % 5))
        fields = {"max_context_tokens": len(prompt) + LENGTH, "params": SamplingParams(seed=index), **changes}
        made.append(GenerateRequest(id=f"r{index}", prompt=prompt, **fields))
    return made


def toy_drafter(rig_holder: list[Rig], agreement: float) -> FakeDrafterEngine:
    """A drafter that agrees with the toy target as often as told; it looks the context up at the verifiers."""

    def oracle(session: int, context_len: int, _last: int, lookahead: int) -> tuple[int, ...]:
        for node in rig_holder[0].of("verifier"):
            known = node.service._sessions.get(session)
            if known is not None and known.context_len == context_len:
                seed = known.opened.params.seed
                return toy_proposal(known.tokens, seed=seed, vocab_size=VOCAB, lookahead=lookahead, agreement=agreement)
        return tuple(garbage(session, context_len, 0, lookahead))

    return FakeDrafterEngine(oracle)


async def check_all(rig: Rig, made: list[GenerateRequest]) -> None:
    outputs = await asyncio.wait_for(asyncio.gather(*(rig.generate(request) for request in made)), 60)
    for request, output in zip(made, outputs, strict=True):
        assert output == reference(request), request.id


@pytest.mark.parametrize("agreement", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("lookahead", [0, 1, 3, 8])
async def test_the_output_does_not_depend_on_drafter_or_lookahead(agreement: float, lookahead: int):
    holder: list[Rig] = []
    async with running_rig(verifiers=[FakeEngine()], drafters=[toy_drafter(holder, agreement)]) as rig:
        holder.append(rig)
        await check_all(rig, requests(6, num_speculative_tokens=lookahead))
        drafter = rig.of("drafter")[0].service
        assert (drafter.stats.num_draft_tokens > 0) == (lookahead > 0)


async def test_the_output_over_mutual_tls_is_the_same(tmp_path: Path):
    holder: list[Rig] = []
    authority = make_authority(1)
    links = settings_with(tmp_path, authority, issue(authority, 1))
    async with running_rig(verifiers=[FakeEngine()], drafters=[toy_drafter(holder, 0.6)], links=links) as rig:
        holder.append(rig)
        await check_all(rig, requests(6, num_speculative_tokens=3))
        assert rig.of("drafter")[0].service.stats.num_draft_tokens > 0
        assert all(link._wire is not link._transport for node in rig.nodes for link in node.links)


@pytest.mark.parametrize("allowed", [0, 2])
async def test_a_requests_bound_holds_where_the_router_chooses_the_lookahead(allowed: int):
    holder: list[Rig] = []
    async with running_rig(verifiers=[FakeEngine()], drafters=[toy_drafter(holder, 1.0)]) as rig:
        holder.append(rig)
        (request,) = requests(1, max_speculative_tokens=allowed)
        commits = [commit async for commit in rig.client.generate(request)]
        assert max(commit.num_drafted for commit in commits) == allowed
        assert [token for commit in commits for token in commit.tokens] == reference(request)


class SlowEngine(FakeEngine):
    """A toy target whose steps take a while, so that speculation pays."""

    def step(self, chunks: Sequence[Chunk]) -> list[Outcome]:
        time.sleep(0.003)
        return super().step(chunks)


@pytest.mark.parametrize("policy", ["adaptive", "heuristic"])
@pytest.mark.parametrize("agreement", [0.0, 0.6, 1.0])
async def test_the_output_does_not_depend_on_the_policy(agreement: float, policy: str):
    holder: list[Rig] = []
    engine, drafter = SlowEngine(), toy_drafter(holder, agreement)
    async with running_rig(verifiers=[engine], drafters=[drafter], router={"policy": policy}, num_routers=2) as rig:
        holder.append(rig)
        await check_all(rig, requests(6))
        drafted = [chunk.num_drafted for step in engine.steps for chunk in step]
        assert max(drafted) > 0
        if policy == "adaptive":
            late = drafted[len(drafted) // 2 :]
            if agreement:
                assert sum(late) / len(late) > 1.0
            else:  # but all try again for a few rounds once their company has lasted
                assert sum(count > 0 for count in late) / len(late) < 0.5


async def test_perfect_drafts_are_accepted_whole():
    holder: list[Rig] = []
    async with running_rig(verifiers=[FakeEngine()], drafters=[toy_drafter(holder, 1.0)]) as rig:
        holder.append(rig)
        (request,) = requests(1, num_speculative_tokens=5)
        commits = [commit async for commit in rig.client.generate(request)]
        assert all(commit.num_accepted == commit.num_drafted for commit in commits)
        assert len(commits) == 1 + -(-(LENGTH - 1) // 6)


async def test_one_message_per_step_and_peer_at_sixteen_sessions():
    holder: list[Rig] = []
    async with running_rig(verifiers=[FakeEngine()], drafters=[toy_drafter(holder, 0.7)]) as rig:
        holder.append(rig)
        await check_all(rig, requests(16, num_speculative_tokens=4))
        (verifier,), (drafter,), (router,) = rig.of("verifier"), rig.of("drafter"), rig.of("router")
        num_steps, num_batches = verifier.service.num_steps, drafter.service.stats.num_batches
        assert num_steps < 16 * LENGTH / 4, "sessions share steps"
        assert router.tap.count(Verdict) == num_steps
        assert rig.ingress.tap.count(Commits) == num_steps
        assert drafter.tap.count(Delta) <= num_steps
        assert router.tap.count(Proposal) == num_batches
        # A step that reads prompts may merge the two Verifys that came while the one before it ran.
        assert verifier.tap.count(Verify) <= num_steps + 16
        num_session_rounds = sum(len(m.items) for _, m in verifier.tap.messages if isinstance(m, Verify))
        assert num_session_rounds > 4 * num_steps, "or else sixteen messages would look like one"


async def test_a_drafter_killed_in_the_middle_costs_speed_only():
    holder: list[Rig] = []
    drafters = [toy_drafter(holder, 0.8), toy_drafter(holder, 0.8)]
    async with running_rig(verifiers=[FakeEngine()], drafters=drafters) as rig:
        holder.append(rig)
        running = asyncio.create_task(check_all(rig, requests(8)))
        await until(lambda: drafters[0].num_extended > 20)
        rig.of("drafter")[0].kill()
        await running
        assert drafters[1].num_attached > 4, "the other drafter took the sessions over"


@pytest.mark.parametrize("max_delta_tokens", [1024, 12])
async def test_a_drafter_that_comes_late_catches_up_and_is_used(max_delta_tokens: int):
    holder: list[Rig] = []
    settings = {"max_delta_tokens": max_delta_tokens}
    async with running_rig(verifiers=[FakeEngine()], verifier=settings) as rig:
        holder.append(rig)
        running = asyncio.create_task(check_all(rig, requests(4)))
        await until(lambda: rig.of("verifier")[0].service.num_steps > 5)
        engine = toy_drafter(holder, 0.8)
        drafter = await rig.add_drafter(engine)
        await running
        assert engine.num_extended > 4
        assert drafter.service.stats.num_draft_tokens > 0
        deltas = [message for _, message in drafter.tap.messages if isinstance(message, Delta)]
        entries = [sum(max(r.stop - r.start for r in item.ranges) for item in delta.items) for delta in deltas]
        assert max(entries) <= max_delta_tokens


@pytest.mark.parametrize("lost", [Delta, Proposal, Attach])
async def test_lost_messages_cost_a_deadline_and_nothing_else(lost: type[Message]):
    holder: list[Rig] = []
    chance = random.Random(1)
    settings = {"proposal_timeout_s": 0.05}
    async with running_rig(verifiers=[FakeEngine()], drafters=[toy_drafter(holder, 0.8)], router=settings) as rig:
        holder.append(rig)

        def lose(_link: object, message: Message) -> Message | None:
            return None if isinstance(message, lost) and chance.random() < 0.3 else message

        for node in (*rig.of("drafter"), *rig.of("router")):
            node.tap.bend = lose
        await check_all(rig, requests(6))
        drafter = rig.of("drafter")[0]
        if lost is Delta:
            assert rig.of("verifier")[0].tap.count(Need) > 0, "the drafter noticed the gap"
        if lost is not Attach:
            assert drafter.service.stats.num_draft_tokens > 0


async def test_lost_and_repeated_verdicts_and_verifies_change_nothing():
    holder: list[Rig] = []
    chance = random.Random(2)
    settings = {"proposal_timeout_s": 0.05, "verify_timeout_s": 0.1}
    async with running_rig(verifiers=[FakeEngine()], drafters=[toy_drafter(holder, 0.8)], router=settings) as rig:
        holder.append(rig)
        router, verifier = rig.of("router")[0], rig.of("verifier")[0]

        def distort(link: object, message: Message) -> Message | None:
            if isinstance(message, Verify) and chance.random() < 0.2:
                verifier.service.received(link, message)
            return None if isinstance(message, Verify | Verdict) and chance.random() < 0.1 else message

        router.tap.bend = verifier.tap.bend = distort
        await check_all(rig, requests(6))


async def test_garbage_proposals_change_nothing():
    chance = random.Random(3)

    def spoil(_link: object, message: Message) -> Message:
        if not isinstance(message, Proposal):
            return message
        items = tuple(
            msgspec.structs.replace(item, tokens=tuple(chance.choice((-5, 0, 7, 49, 50, 2**40)) for _ in range(20)))
            for item in message.items
        )
        return msgspec.structs.replace(message, items=items)

    async with running_rig(verifiers=[FakeEngine()], drafters=[FakeDrafterEngine()]) as rig:
        rig.of("router")[0].tap.bend = spoil
        await check_all(rig, requests(6))


async def test_an_evicted_shadow_is_asked_for_again():
    holder: list[Rig] = []
    engine = toy_drafter(holder, 0.8)
    engine._max_shadow_len = 100
    async with running_rig(verifiers=[FakeEngine()], drafters=[engine], router={"proposal_timeout_s": 0.05}) as rig:
        holder.append(rig)
        await check_all(rig, requests(4))
        assert rig.of("verifier")[0].tap.count(Need) > 0


async def test_a_verifier_killed_in_the_middle_loses_no_token():
    holder: list[Rig] = []
    engines = [FakeEngine(), FakeEngine()]
    async with running_rig(verifiers=engines, drafters=[toy_drafter(holder, 0.8)]) as rig:
        holder.append(rig)
        running = asyncio.create_task(check_all(rig, requests(8)))
        await until(lambda: len(engines[0].steps) > 6)
        assert engines[0].open_sessions
        before = engines[1].num_opened
        rig.of("verifier")[0].kill()
        await running
        assert engines[1].num_opened > before


async def test_a_router_killed_in_the_middle_loses_no_token():
    holder: list[Rig] = []
    engine = FakeEngine()
    async with running_rig(verifiers=[engine], drafters=[toy_drafter(holder, 0.8)], num_routers=2) as rig:
        holder.append(rig)
        running = asyncio.create_task(check_all(rig, requests(8)))
        await until(lambda: len(engine.steps) > 6)
        assert rig.of("router")[0].service.num_sessions > 0
        rig.of("router")[0].kill()
        await running
        await until(lambda: not engine.open_sessions)


async def test_a_reader_that_leaves_frees_its_blocks_within_a_round():
    holder: list[Rig] = []
    engine, drafter = FakeEngine(), toy_drafter(holder, 0.8)
    async with running_rig(verifiers=[engine], drafters=[drafter]) as rig:
        holder.append(rig)
        (request,) = requests(1)
        stream = rig.client.generate(request)
        await anext(stream)
        assert engine.open_sessions
        await stream.aclose()
        num_steps = len(engine.steps)
        await until(lambda: not engine.open_sessions and not drafter.params)
        assert len(engine.steps) <= num_steps + 2
        assert rig.of("router")[0].service.num_sessions == 0
        told = rig.of("router")[0].tap.messages
        loads = lambda role: [m.num_sessions for who, m in told if isinstance(m, Load) and who.startswith(role)]  # noqa: E731
        await until(lambda: loads("verifier")[-1:] == loads("drafter")[-1:] == [0])


async def test_more_sessions_than_the_verifier_has_room_for_all_finish():
    holder: list[Rig] = []
    engine = FakeEngine(max_sessions=3)
    async with running_rig(verifiers=[engine], drafters=[toy_drafter(holder, 0.8)]) as rig:
        holder.append(rig)
        await check_all(rig, requests(12))
        assert engine.num_opened == engine.num_closed == 12


async def until(condition, timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)


def toy_token_drafter(agreement: float) -> FakeTokenEngine:
    def oracle(params: SamplingParams, text: Sequence[Token]) -> Token:
        (token,) = toy_proposal(text, seed=params.seed, vocab_size=VOCAB, lookahead=1, agreement=agreement)
        return token

    return FakeTokenEngine(oracle, vocab_size=VOCAB)


@pytest.mark.parametrize("agreement", [0.0, 0.6, 1.0])
async def test_a_drafter_of_tokens_changes_no_token_whatever_it_drafts(agreement: float):
    engine = toy_token_drafter(agreement)
    settings = {"drafter": "draft_model"}
    async with running_rig(verifiers=[FakeEngine()], token_drafters=[engine], router=settings) as rig:
        await check_all(rig, requests(6, num_speculative_tokens=4))
        stats = rig.of("drafter")[0].service.stats
        assert stats.num_draft_tokens > 0
        assert rig.of("drafter")[0].tap.count(Draft) <= rig.of("verifier")[0].service.num_steps + 6
    assert not engine.params


async def test_lost_questions_and_proposals_of_a_drafter_of_tokens_cost_a_deadline_and_nothing_else():
    chance = random.Random(4)
    settings = {"drafter": "draft_model", "proposal_timeout_s": 0.05}
    engine = toy_token_drafter(0.9)
    async with running_rig(verifiers=[FakeEngine()], token_drafters=[engine], router=settings) as rig:

        def lose(_link: object, message: Message) -> Message | None:
            return None if isinstance(message, Draft | Proposal) and chance.random() < 0.2 else message

        (drafter,), (router,) = rig.of("drafter"), rig.of("router")
        drafter.tap.bend = router.tap.bend = lose
        await check_all(rig, requests(6))
        assert router.tap.count(Need) > 0, "the drafter noticed the gap"


async def test_drafters_of_two_kinds_serve_side_by_side_and_either_may_die():
    holder: list[Rig] = []
    mtp, tokens = toy_drafter(holder, 0.8), toy_token_drafter(0.8)
    async with running_rig(verifiers=[FakeEngine()], drafters=[mtp], token_drafters=[tokens]) as rig:
        holder.append(rig)
        made = [
            dataclasses.replace(request, drafter=("mtp", "draft_model")[i % 2]) for i, request in enumerate(requests(8))
        ]
        running = asyncio.create_task(check_all(rig, made))
        await until(lambda: mtp.num_extended > 20 and len(tokens.batches) > 20)
        assert len(mtp.params) == len(tokens.params) == 4
        rig.of("drafter")[1].kill()
        await running
