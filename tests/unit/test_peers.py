"""Peer sets: lease, dial, redial, part; nothing is leaked whatever fails on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deployments.link import Identity, Link
from deployments.messages import PROTOCOL_VERSION, Message
from deployments.peers import Member, PeerSet, PeerTimeouts
from deployments.service_host import ServiceHost

ANY_PORT = range(1)
ROUTER = Identity("router-1", "router")
QUICK = PeerTimeouts(lease_timeout_s=0.3, dial_timeout_s=0.3, first_pause_s=0.01, max_pause_s=0.05)


class Recorder:
    """A service that does nothing but remember who is linked."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.links: dict[str, Link] = {}
        self.changed = asyncio.Event()

    def link_opened(self, link: Link) -> None:
        self.events.append(("opened", link.peer))
        self.links[link.peer] = link
        self.changed.set()

    def received(self, link: Link, message: Message) -> None:
        raise AssertionError(message)

    def link_closed(self, link: Link) -> None:
        self.events.append(("closed", link.peer))
        self.links.pop(link.peer, None)
        self.changed.set()

    async def run(self) -> None:
        await asyncio.Event().wait()


class FakeLease:
    """A lease on a host of this very process; notes the order of what happens to it."""

    def __init__(self, world: World, granted: Any, host: ServiceHost, peer: str) -> None:
        self.token = granted.token
        self._world, self._granted, self._host, self._peer = world, granted, host, peer

    async def wait_ended(self) -> None:
        await self._granted.ended.wait()

    def release(self) -> None:
        self._world.events.append(("released", self._peer))
        self._world.num_leases -= 1
        self._world.tasks.add(asyncio.create_task(self._host.give_back(self._granted)))


class World:
    """Verifiers that can be dialled, and a router's peer set that dials them."""

    def __init__(self) -> None:
        self.router = Recorder()
        self.events = self.router.events
        self.peers = PeerSet(self.router, ROUTER, self.acquire, QUICK)
        self.hosts: dict[str, ServiceHost] = {}
        self.verifiers: dict[str, Recorder] = {}
        self.members: list[Member] = []
        self.num_leases = 0
        self.num_refusals = 0
        self.is_stalled = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def add(self, peer: str) -> Member:
        service = Recorder()
        host = ServiceHost(service, Identity(peer, "verifier"), host="127.0.0.1", ports=ANY_PORT)
        member = await host.start()
        self.hosts[peer], self.verifiers[peer] = host, service
        self.members.append(member)
        return member

    async def acquire(self, member: Member) -> FakeLease:
        if self.is_stalled:
            await asyncio.sleep(60)
        if self.num_refusals > 0:
            self.num_refusals -= 1
            raise RuntimeError("no lease for you")
        peer = member.identity.peer
        granted = await self.hosts[peer].grant(ROUTER)
        self.num_leases += 1
        return FakeLease(self, granted, self.hosts[peer], peer)

    async def until(self, condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def world(*peers: str) -> AsyncIterator[World]:
    w = World()
    for peer in peers:
        await w.add(peer)
    try:
        yield w
    finally:
        await w.peers.close()
        for host in w.hosts.values():
            await host.close()
        await asyncio.gather(*w.tasks)


async def test_every_member_is_leased_and_linked() -> None:
    async with world("v1", "v2") as w:
        w.peers.set_members(w.members)
        await w.until(lambda: set(w.router.links) == {"v1", "v2"})
        assert w.peers.num_links == w.num_leases == 2
        await w.until(lambda: ROUTER.peer in w.verifiers["v1"].links)


async def test_the_same_membership_again_changes_nothing() -> None:
    async with world("v1") as w:
        w.peers.set_members(w.members)
        await w.until(lambda: w.router.links)
        w.peers.set_members(list(w.members))
        await asyncio.sleep(0.05)
        assert w.events == [("opened", "v1")]


async def test_a_member_that_leaves_loses_its_link_first_and_its_lease_after() -> None:
    async with world("v1", "v2") as w:
        w.peers.set_members(w.members)
        await w.until(lambda: len(w.router.links) == 2)
        w.events.clear()
        w.peers.set_members([m for m in w.members if m.identity.peer == "v2"])
        await w.until(lambda: w.num_leases == 1)
        assert w.events == [("closed", "v1"), ("released", "v1")]
        assert set(w.router.links) == {"v2"}
        await w.until(lambda: not w.verifiers["v1"].links)


async def test_a_lost_link_is_dialled_again_with_a_new_lease() -> None:
    async with world("v1") as w:
        w.peers.set_members(w.members)
        await w.until(lambda: ROUTER.peer in w.verifiers["v1"].links)
        w.verifiers["v1"].links[ROUTER.peer].fail("a test cut it")
        await w.until(lambda: w.events.count(("opened", "v1")) == 2)
        assert w.events == [("opened", "v1"), ("closed", "v1"), ("released", "v1"), ("opened", "v1")]
        assert w.num_leases == 1


async def test_a_lease_that_ends_takes_its_link_along() -> None:
    async with world("v1") as w:
        w.peers.set_members(w.members)
        await w.until(lambda: w.router.links)
        await w.hosts["v1"].grant(ROUTER)  # a newer lease ends the older one
        await w.until(lambda: w.events.count(("opened", "v1")) == 2)
        assert w.num_leases == 1


async def test_a_refused_lease_is_asked_for_again() -> None:
    async with world("v1") as w:
        w.num_refusals = 3
        w.peers.set_members(w.members)
        await w.until(lambda: w.router.links)
        assert w.num_refusals == 0


async def test_a_lease_that_never_comes_is_given_up_at_its_deadline(caplog: pytest.LogCaptureFixture) -> None:
    async with world("v1") as w:
        w.is_stalled = True
        w.peers.set_members(w.members)
        await w.until(lambda: "no link to" in caplog.text)
        w.is_stalled = False
        await w.until(lambda: w.router.links)


async def test_a_failed_dial_gives_its_lease_back() -> None:
    async with world("v1") as w:
        w.peers.set_members([w.members[0]._replace(port=1)])
        await w.until(lambda: w.events.count(("released", "v1")) >= 2)
        await w.peers.close()
        assert w.num_leases == 0


async def test_closing_parts_from_all_even_from_those_not_reached() -> None:
    async with world("v1", "v2") as w:
        w.peers.set_members(w.members[:1])
        await w.until(lambda: w.router.links)
        w.is_stalled = True
        w.peers.set_members(w.members)
        await asyncio.sleep(0.02)
        await w.peers.close()
        assert w.num_leases == w.peers.num_links == 0


async def test_a_member_of_another_protocol_version_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with world("v1") as w:
        w.peers.set_members([w.members[0]._replace(protocol_version=PROTOCOL_VERSION + 1)])
        await asyncio.sleep(0.05)
        assert w.events == []
        assert "protocol version" in caplog.text


def test_metadata_describes_a_member() -> None:
    member = Member(Identity("v1", "verifier"), "10.0.0.1", 23700, 1)
    assert Member.from_metadata(member.as_metadata()) == member
    for broken in ({}, {**member.as_metadata(), "port": "x"}, {**member.as_metadata(), "role": "king"}):
        with pytest.raises(ValueError, match="published"):
            Member.from_metadata(broken)
