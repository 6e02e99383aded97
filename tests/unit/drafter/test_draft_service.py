"""Batches of drafts: who is drafted for together, with an engine that counts and links that remember."""

from __future__ import annotations

import asyncio

import pytest

from deployments.drafter.fake_engine import FakeDrafterEngine
from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.messages import Attach, Delta, DeltaItem, KvRange, Proposal, SamplingParams, Token
from tests.support.fake_link import FakeLink

EPOCH = (1, 1)
FOREVER_MS = 60_000.0


def count_up(_session: int, _context_len: int, last_token: Token, lookahead: int) -> tuple[Token, ...]:
    return tuple(last_token + 1 + j for j in range(lookahead))


class Rig:
    """A service that runs, with a router, a verifier and sessions that have had a prompt of two tokens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wait_ms: float, num_sessions: int = 3, **settings: int) -> None:
        self.engine = FakeDrafterEngine(count_up)
        self.service = DrafterService(self.engine, DrafterSettings(**settings))
        self.router, self.verifier = FakeLink("router-0", "router"), FakeLink("verifier-0", "verifier")
        self.waits: list[int] = []

        def wait_until_ms(lookaheads: list[int], _since_ms: float, now_ms: float) -> float | None:
            """Those that are ready wait for a third session."""
            self.waits.append(len(lookaheads))
            return now_ms + wait_ms if len(lookaheads) < 3 else None

        monkeypatch.setattr(self.service._policy, "wait_until_ms", wait_until_ms)
        for session in range(num_sessions):
            attach = Attach(
                kind="mtp", session=session, epoch=EPOCH, params=SamplingParams(), max_context_tokens=400
            )  # fmt: skip
            self.service.received(self.router, attach)

    def go_ahead(self, session: int, lookahead: int = 2) -> None:
        item = DeltaItem(
            session=session,
            epoch=EPOCH,
            context_len=3,
            last_token=7,
            lookahead=lookahead,
            ranges=(KvRange("full_attention", 0, 2, b"", b""),),
            hidden=b"",
        )
        self.service.received(self.verifier, Delta(items=(item,)))

    async def turns(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


async def test_a_batch_that_waits_takes_along_whoever_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, FOREVER_MS)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(rig.service.run())
        for session in range(3):
            assert rig.engine.batches == []
            rig.go_ahead(session)
            await rig.turns()
        running.cancel()
    assert rig.engine.batches == [(0, 1, 2)]
    assert set(rig.waits) == {1, 2, 3}
    assert [item.tokens for item in rig.router.take_one(Proposal).items] == [(8, 9)] * 3


async def test_a_wait_ends_when_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, 5.0)
    until_ms = iter([5.0])
    monkeypatch.setattr(
        rig.service._policy, "wait_until_ms", lambda _ready, _since_ms, now_ms: now_ms + next(until_ms, 0.0)
    )
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(rig.service.run())
        rig.go_ahead(0)
        await rig.turns()
        assert rig.engine.batches == []
        while not rig.engine.batches:
            await asyncio.sleep(0.001)
        running.cancel()
    assert rig.engine.batches == [(0,)]


async def test_a_full_batch_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, FOREVER_MS, max_batch_sessions=2)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(rig.service.run())
        rig.go_ahead(0)
        await rig.turns()
        rig.go_ahead(1)
        await rig.turns()
        running.cancel()
    assert rig.engine.batches == [(0, 1)]


async def test_the_policy_is_told_who_left_and_who_came_back(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(monkeypatch, FOREVER_MS)
    told: list[object] = []
    monkeypatch.setattr(rig.service._policy, "wait_until_ms", lambda *args: None)
    monkeypatch.setattr(rig.service._policy, "left", lambda lookaheads, *times: told.append(("left", lookaheads)))
    monkeypatch.setattr(rig.service._policy, "came_back", lambda session, now_ms: told.append(("came back", session)))
    monkeypatch.setattr(rig.service._policy, "forget", lambda session: told.append(("forget", session)))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(rig.service.run())
        rig.go_ahead(0)
        await rig.turns()
        rig.go_ahead(0, lookahead=0)
        await rig.turns()
        running.cancel()
    assert told == [("came back", 0), ("left", {0: 2}), ("forget", 0)]
