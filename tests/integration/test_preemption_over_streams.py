"""A cache that holds a quarter of the sessions, over real streams with toy engines: all finish with their own text."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Sequence

import pytest

from deployments.drafter.fake_engine import FakeDrafterEngine
from deployments.messages import Message, Need, Open, Verdict, Verify, Wait
from deployments.verifier.admission import MAX_PREEMPTIONS
from deployments.verifier.engine import Chunk
from deployments.verifier.fake_engine import FakeEngine
from tests.integration.test_rounds_over_streams import LENGTH, SlowEngine, check_all, requests, toy_drafter
from tests.support.rig import Rig, running_rig

NUM_SESSIONS = 24
ROOM = NUM_SESSIONS // 4 * (LENGTH + 5)


def num_preemptions(engine: FakeEngine) -> int:
    """Sessions that were opened more often than they were asked for."""
    return engine.num_opened - NUM_SESSIONS


@pytest.mark.parametrize("lookahead", [0, 1, 4])
async def test_four_times_more_sessions_than_fit_all_finish(lookahead: int) -> None:
    holder: list[Rig] = []
    engine = FakeEngine(num_kv_tokens=ROOM, max_sessions=NUM_SESSIONS)
    async with running_rig(verifiers=[engine], drafters=[toy_drafter(holder, 0.7)], num_routers=2) as rig:
        holder.append(rig)
        await check_all(rig, requests(NUM_SESSIONS, num_speculative_tokens=lookahead))
        assert num_preemptions(engine) > 0
        assert num_preemptions(engine) <= MAX_PREEMPTIONS * NUM_SESSIONS
        assert sum(node.tap.count(Wait) for node in rig.of("router")) > 0
        assert sum(node.service._stats.verify_resends.value for node in rig.of("router")) == 0
    assert engine.kv_usage == 0


async def test_lost_and_repeated_messages_change_nothing_when_sessions_make_way() -> None:
    holder: list[Rig] = []
    chance = random.Random(2)
    settings = {"proposal_timeout_s": 0.05, "verify_timeout_s": 0.1}
    engine = FakeEngine(num_kv_tokens=ROOM, max_sessions=NUM_SESSIONS)
    drafters = [toy_drafter(holder, 0.8)]
    async with running_rig(verifiers=[engine], drafters=drafters, router=settings) as rig:
        holder.append(rig)
        router, verifier = rig.of("router")[0], rig.of("verifier")[0]

        def distort(link: object, message: Message) -> Message | None:
            if isinstance(message, Verify | Open) and chance.random() < 0.2:
                verifier.service.received(link, message)
            return None if isinstance(message, Verify | Verdict | Wait) and chance.random() < 0.1 else message

        router.tap.bend = verifier.tap.bend = distort
        await check_all(rig, requests(NUM_SESSIONS))
        assert num_preemptions(engine) > 0


async def test_a_shadow_that_was_evicted_comes_back_after_its_session_made_way() -> None:
    holder: list[Rig] = []
    drafter = toy_drafter(holder, 0.8)
    drafter._max_shadow_len = 20 * NUM_SESSIONS
    engine = FakeEngine(num_kv_tokens=ROOM, max_sessions=NUM_SESSIONS)
    async with running_rig(verifiers=[engine], drafters=[drafter], router={"proposal_timeout_s": 0.05}) as rig:
        holder.append(rig)
        await check_all(rig, requests(NUM_SESSIONS))
        assert num_preemptions(engine) > 0
        assert rig.of("verifier")[0].tap.count(Need) > 0


async def test_a_killed_verifiers_sessions_fit_into_another_by_making_way() -> None:
    holder: list[Rig] = []
    engines = [SlowEngine(num_kv_tokens=ROOM, max_sessions=NUM_SESSIONS) for _ in range(2)]
    async with running_rig(verifiers=engines, drafters=[toy_drafter(holder, 0.8)]) as rig:
        holder.append(rig)
        running = asyncio.create_task(check_all(rig, requests(NUM_SESSIONS)))
        while rig.of("verifier")[0].service.num_steps < 10:
            await asyncio.sleep(0.001)
        assert not running.done()
        rig.of("verifier")[0].kill()
        await running
        assert engines[1].num_opened > NUM_SESSIONS


async def test_a_batch_of_low_priority_makes_way_for_one_that_came_later() -> None:
    engine = SlowEngine(num_kv_tokens=2 * (LENGTH + 8), max_sessions=8)
    made = requests(5)
    async with running_rig(verifiers=[engine], drafters=[FakeDrafterEngine()]) as rig:
        running = asyncio.create_task(
            check_all(rig, [dataclasses.replace(request, priority="batch") for request in made[:4]])
        )
        while rig.of("verifier")[0].service.num_steps < 8:
            await asyncio.sleep(0.001)
        await check_all(rig, made[4:])
        assert not running.done()
        await running
        assert engine.num_opened > 5


class ForgetfulEngine(FakeEngine):
    """A cache that brings a token too few back: what a session that made way must notice."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)
        self.is_forgetful: set[int] = set()

    def close(self, session: int) -> None:
        if session in self.open_sessions and self.computed_len(session) > 6:
            self.is_forgetful.add(session)
        super().close(session)

    def step(self, chunks: Sequence[Chunk]):
        outcomes = super().step(chunks)
        for chunk in chunks:
            if chunk.start == 0 and chunk.session in self.is_forgetful and len(chunk.tokens) > 2:
                self._sessions[chunk.session].computed[1] = 0
        return outcomes


async def test_a_token_that_is_lost_on_the_way_is_noticed() -> None:
    engine = ForgetfulEngine(num_kv_tokens=ROOM, max_sessions=NUM_SESSIONS)
    async with running_rig(verifiers=[engine]) as rig:
        with pytest.raises(AssertionError, match=r"r\d"):
            await check_all(rig, requests(NUM_SESSIONS, num_speculative_tokens=0))
