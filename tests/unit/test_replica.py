"""What router, verifier and drafter share as Serve classes: two loops, leases across them, health, the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cluster.membership import Membership
from deployments import replica as replica_module
from deployments.config import StreamsConfig
from deployments.link import Identity, Link
from deployments.messages import Message
from deployments.metering import Meter
from deployments.points import Point
from deployments.replica import ServedReplica

STREAMS = StreamsConfig(port_range=(23_500, 23_599))


class Recorder:
    """A service that remembers who is linked; everything happens on the data plane's thread."""

    def __init__(self) -> None:
        self.linked: set[str] = set()
        self.crash = asyncio.Event()

    def link_opened(self, link: Link) -> None:
        self.linked.add(link.peer)

    def received(self, link: Link, message: Message) -> None: ...

    def link_closed(self, link: Link) -> None:
        self.linked.discard(link.peer)

    async def run(self) -> None:
        await self.crash.wait()
        raise RuntimeError("the service broke")


class HeldLease:
    """A lease on a replica in this process, as a streaming call would hold it."""

    def __init__(self, call: Any, token: str) -> None:
        self.token = token
        self._call = call
        self._end = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        async for _ in self._call:
            raise AssertionError("a lease yields one token")

    async def wait_ended(self) -> None:
        await asyncio.wait([self._end])

    def release(self) -> None:
        self._end.cancel()


class LocalLessors:
    """A deployment of one replica in this process. Leases are taken on the loop of the test, as Serve's would be."""

    def __init__(self) -> None:
        self.membership = Membership()
        self.replicas: dict[str, ServedReplica] = {}
        self.num_calls = 0

    async def add(self, name: str, replica: ServedReplica) -> None:
        self.replicas[name] = replica
        self.membership.publish({name: await replica.record_replica_metadata()})

    def remove(self, name: str) -> None:
        del self.replicas[name]
        self.membership.publish({})

    def subscribe(self, listener: Callable[[Mapping[str, Mapping[str, object]]], None]) -> None:
        self.membership.subscribe(listener)

    async def acquire(self, replica: str, guest_name: str, guest_role: Any) -> HeldLease:
        self.num_calls += 1
        call = self.replicas[replica].lease(guest_name, guest_role, replica)
        return HeldLease(call, await anext(call))


@asynccontextmanager
async def served(role: Any, name: str, *peers: LocalLessors) -> AsyncIterator[tuple[ServedReplica, Recorder]]:
    replica, made = ServedReplica(), list[Recorder]()

    def build(meter: Meter) -> Recorder:
        made.append(Recorder())
        return made[0]

    await replica.start(Identity(name, role), build, STREAMS, peers)
    try:
        yield replica, made[0]
    finally:
        await replica.stop()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_replicas_link_across_their_loops_and_part_again() -> None:
    drafters = LocalLessors()
    async with served("drafter", "d1") as (drafter, drafting), served("verifier", "v1", drafters) as (_, verifying):
        await drafters.add("d1", drafter)
        await until(lambda: verifying.linked == {"d1"} and drafting.linked == {"v1"})
        drafters.remove("d1")
        await until(lambda: not verifying.linked and not drafting.linked)
        assert drafters.num_calls == 1
        ending = drafter.__del__()
        assert ending is not None
        await ending  # as Serve does
        assert drafter.__del__() is None


async def test_a_replica_that_goes_gives_its_leases_back() -> None:
    drafters = LocalLessors()
    async with served("drafter", "d1") as (drafter, drafting):
        await drafters.add("d1", drafter)
        async with served("verifier", "v1", drafters):
            await until(lambda: drafting.linked)
        await until(lambda: not drafting.linked and drafter._host._leases.num_leases == 0)


async def test_a_lease_that_nobody_wants_any_more_is_over() -> None:
    async with served("verifier", "v1") as (verifier, _):
        call = verifier.lease("router-1", "router", "v1")
        assert isinstance(await anext(call), str)
        assert verifier._host._leases.num_leases == 1
        await call.aclose()
        await until(lambda: verifier._host._leases.num_leases == 0)


async def test_health_is_that_of_the_service(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    async with served("verifier", "v1") as (verifier, service):
        await verifier.check_health()
        monkeypatch.setattr(replica_module, "_HEALTH_TIMEOUT_S", 0.05)
        verifier._plane.loop.call_soon_threadsafe(time.sleep, 0.5)
        with pytest.raises(RuntimeError, match="has not answered"):
            await verifier.check_health()
        monkeypatch.setattr(replica_module, "_HEALTH_TIMEOUT_S", 20.0)
        await verifier.check_health()
        verifier._plane.loop.call_soon_threadsafe(service.crash.set)
        await until(lambda: "the service broke" in caplog.text)
        with pytest.raises(RuntimeError, match="has stopped"):
            await verifier.check_health()


async def test_a_replica_with_broken_metadata_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    drafters = LocalLessors()
    async with served("verifier", "v1", drafters):
        drafters.membership.publish({"d1": {"peer": "d1"}})
        await until(lambda: "left alone" in caplog.text)
        assert drafters.num_calls == 0


async def test_a_service_that_cannot_be_built_fails_the_start() -> None:
    replica = ServedReplica()

    def build(meter: Meter) -> Any:
        raise ValueError("no weights")

    with pytest.raises(ValueError, match="no weights"):
        await replica.start(Identity("v1", "verifier"), build, STREAMS)
    await replica.stop()


async def test_a_replica_that_never_started_ends_quietly() -> None:
    replica = ServedReplica()
    assert replica.__del__() is None
    await replica.stop()
    with pytest.raises(RuntimeError, match="not running"):
        await replica.check_health()


async def test_what_a_replica_measures_is_exported_and_a_failing_export_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replica_module, "EXPORT_PERIOD_S", 0.01)
    replica, exported = ServedReplica(), list[set[str]]()

    def export(points: Iterable[Point]) -> None:
        exported.append({point.name for point in points})
        if len(exported) == 1:
            raise OSError("no agent")

    await replica.start(Identity("d1", "drafter"), lambda meter: Recorder(), STREAMS, export=export)
    try:
        await until(lambda: len(exported) > 1)
    finally:
        await replica.stop()
    assert "no agent" in caplog.text
    assert "outrider_replicas" in exported[1]
