"""Batches of drafts: who is drafted for together, with an engine that counts and links that remember."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from deployments.drafter.engine import Draft, DraftRequest
from deployments.drafter.fake_engine import FakeDrafterEngine
from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.messages import Attach, Delta, DeltaItem, EarlyStop, KvRange, Proposal, SamplingParams, Token
from deployments.policy.draft_waiting import DraftPolicy
from tests.support.early_stops import early_stop
from tests.support.fake_link import FakeLink

EPOCH = (1, 1)
FOREVER_MS = 60_000.0


def count_up(_session: int, _context_len: int, last_token: Token, lookahead: int) -> tuple[Token, ...]:
    return tuple(last_token + 1 + j for j in range(lookahead))


class Rig:
    """A service that runs, with a router, a verifier and sessions that have had a prompt of two tokens."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        wait_ms: float,
        num_sessions: int = 3,
        engine: FakeDrafterEngine | None = None,
        **settings: int,
    ) -> None:
        self.engine = engine or FakeDrafterEngine(count_up)
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

    def go_ahead(self, session: int, lookahead: int = 2, early_stop: EarlyStop | None = None) -> None:
        item = DeltaItem(
            session=session,
            epoch=EPOCH,
            context_len=3,
            last_token=7,
            lookahead=lookahead,
            ranges=(KvRange("full_attention", 0, 2, b"", b""),),
            hidden=b"",
            early_stop=early_stop,
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
    monkeypatch.setattr(rig.service._policy, "left", lambda *args: told.append(("left", *args[:3])))
    monkeypatch.setattr(rig.service._policy, "came_back", lambda session, now_ms: told.append(("came back", session)))
    monkeypatch.setattr(rig.service._policy, "forget", lambda session: told.append(("forget", session)))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(rig.service.run())
        rig.go_ahead(0)
        await rig.turns()
        rig.go_ahead(0, lookahead=0)
        await rig.turns()
        running.cancel()
    assert told == [("came back", 0), ("left", [0], [2], [2]), ("forget", 0)]


class EarlyEngine(FakeDrafterEngine):
    """Ends every draft that may end early after a token; keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__(count_up)
        self.requests: list[DraftRequest] = []

    def draft(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        self.requests += requests
        drafts = super().draft(requests)
        return [
            one if request.early_stop is None else replace(one, tokens=one.tokens[:1], confidences=one.confidences[:1])
            for one, request in zip(drafts, requests, strict=True)
        ]


async def drafted(monkeypatch: pytest.MonkeyPatch, asked: Sequence[tuple[int, EarlyStop | None]]) -> Rig:
    """After a batch of three sessions with these lookaheads and records of when to end."""
    rig = Rig(monkeypatch, FOREVER_MS, engine=EarlyEngine())
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(rig.service.run())
        for session, (lookahead, early) in enumerate(asked):
            rig.go_ahead(session, lookahead, early)
        await rig.turns()
        running.cancel()
    assert rig.engine.batches == [(0, 1, 2)]
    return rig


async def test_drafts_that_ended_early_are_told_as_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await drafted(monkeypatch, [(6, early_stop()), (3, None), (2, early_stop())])
    proposal = rig.router.take_one(Proposal)
    assert [item.tokens for item in proposal.items] == [(8,), (8, 9, 10), (8,)]
    assert [len(item.confidences) for item in proposal.items] == [1, 3, 1]
    assert (proposal.longest, proposal.num_tokens, proposal.lookahead) == (3, 5, 6)


async def test_the_policy_is_told_what_was_asked_for_and_what_was_drafted(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(DraftPolicy, "left", lambda _self, *args: told.append(args[:3]))
    await drafted(monkeypatch, [(6, early_stop()), (3, None), (2, early_stop())])
    assert told == [([0, 1, 2], [6, 3, 2], [1, 3, 1])]


async def test_where_it_is_not_said_what_confidence_is_worth_drafts_do_not_end_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The drafter may be older than the router, or newer."""
    good, short, empty = early_stop(), early_stop(chances=b"\xff" * 7), early_stop(chances=b"")
    rig = await drafted(monkeypatch, [(2, short), (2, good), (4, empty)])
    assert isinstance(rig.engine, EarlyEngine)
    assert [request.early_stop for request in rig.engine.requests] == [None, good, None]
    assert [len(item.tokens) for item in rig.router.take_one(Proposal).items] == [2, 1, 4]
