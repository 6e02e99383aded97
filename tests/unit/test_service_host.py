"""A service on its data plane: leases end with their links, and a service that stops is noticed."""

from __future__ import annotations

import asyncio
import threading

import pytest

from deployments.link import Identity, Invitation, Link, LinkClosed, TokenBook, dial
from deployments.messages import Message
from deployments.service_host import DataPlane, GrantedLeases, ServiceHost

ROUTER = Identity("router-1", "router")
VERIFIER = Identity("verifier-1", "verifier")


class Idle:
    """A service without work; `trouble` is what its work ends in."""

    def __init__(self) -> None:
        self.trouble: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def link_opened(self, link: Link) -> None: ...

    def received(self, link: Link, message: Message) -> None: ...

    def link_closed(self, link: Link) -> None: ...

    async def run(self) -> None:
        await self.trouble


def host_of(service: Idle) -> ServiceHost:
    return ServiceHost(service, VERIFIER, host="127.0.0.1", ports=range(1))


async def test_a_lease_ends_when_its_link_does() -> None:
    host = host_of(Idle())
    member = await host.start()
    lease = await host.grant(ROUTER)
    link = await dial(Idle(), ROUTER, Invitation(VERIFIER, member.host, member.port, lease.token), timeout_s=5)
    assert not lease.ended.is_set()
    link.close()
    async with asyncio.timeout(5):
        await lease.ended.wait()
    await host.close()


async def test_an_old_link_that_ends_leaves_the_newer_lease_alone() -> None:
    host = host_of(Idle())
    member = await host.start()
    first = await host.grant(ROUTER)
    link = await dial(Idle(), ROUTER, Invitation(VERIFIER, member.host, member.port, first.token), timeout_s=5)
    second = await host.grant(ROUTER)
    assert first.ended.is_set()
    link.close()
    await asyncio.sleep(0.05)
    assert not second.ended.is_set()
    again = await dial(Idle(), ROUTER, Invitation(VERIFIER, member.host, member.port, second.token), timeout_s=5)
    assert not second.ended.is_set()
    again.close()
    await host.close()
    assert second.ended.is_set()


async def test_a_guest_that_does_not_dial_loses_its_lease() -> None:
    leases = GrantedLeases(Idle(), TokenBook(), opening_timeout_s=0.02)
    lease = leases.grant(ROUTER)
    async with asyncio.timeout(5):
        await lease.ended.wait()
    assert leases.num_leases == 0


async def test_a_lease_given_back_is_over_for_good() -> None:
    leases = GrantedLeases(Idle(), TokenBook())
    lease, other = leases.grant(ROUTER), leases.grant(Identity("router-2", "router"))
    leases.give_back(lease)
    leases.give_back(lease)
    assert lease.ended.is_set()
    assert not other.ended.is_set()
    assert leases.num_leases == 1
    leases.end_all()


async def test_a_service_that_stops_fails_the_check(caplog: pytest.LogCaptureFixture) -> None:
    service = Idle()
    host = host_of(service)
    await host.start()
    await host.check()
    service.trouble.set_exception(ValueError("out of ideas"))
    await asyncio.sleep(0.01)
    with pytest.raises(RuntimeError, match="has stopped"):
        await host.check()
    assert "out of ideas" in caplog.text
    await host.close()


async def test_a_closed_host_refuses_even_a_good_token() -> None:
    host = host_of(Idle())
    member = await host.start()
    lease = await host.grant(ROUTER)
    await host.close()
    assert lease.ended.is_set()
    with pytest.raises((LinkClosed, OSError)):
        await dial(Idle(), ROUTER, Invitation(VERIFIER, member.host, member.port, lease.token), timeout_s=5)


async def test_a_data_plane_works_on_a_thread_of_its_own() -> None:
    plane = DataPlane("test")
    assert await plane.call(threading.get_ident) != threading.get_ident()
    with pytest.raises(TimeoutError):
        await plane.run(asyncio.sleep(10), timeout_s=0.02)
    with pytest.raises(ZeroDivisionError):
        await plane.call(lambda: 1 // 0)
    plane.stop()
    plane.stop()
