"""What the Serve classes of router, verifier and drafter have in common; ray itself is handed in.

Serve's loop:  lease, check_health, record_replica_metadata        control plane
own thread:    the service, its engine and all its links           data plane
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import logging
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

from deployments.config_parts import StreamsConfig
from deployments.link import Identity, LinkSettings, StreamTls, TlsFiles
from deployments.logs import about
from deployments.messages import Role, Sample
from deployments.metering import Meter
from deployments.peers import Acquire, Lease, Member, PeerSet
from deployments.points import Point, to_points
from deployments.reporting import ReportingService
from deployments.service_host import DataPlane, Service, ServiceHost
from deployments.signals import SignalReader

logger = logging.getLogger("outrider.replica")

_STOP_TIMEOUT_S = 5.0
_HEALTH_TIMEOUT_S = 20.0
"""A step runs inline on the data plane, so this is longer than any step; Serve asks three times before it acts."""
EXPORT_PERIOD_S = 5.0

Export = Callable[[Iterable[Point]], None]
"""Hands points to the metrics agent of this node."""


class Lessors(Protocol):
    """The replicas of another deployment, that leases can be taken of."""

    def subscribe(self, listener: Callable[[Mapping[str, Mapping[str, object]]], None]) -> None:
        """Call the listener now and at every change of membership, on any thread."""

    async def acquire(self, replica: str, guest_name: str, guest_role: str) -> Lease:
        """A lease of the named replica; waits without end."""


class ServedReplica:
    """Base of a Serve class: `await self.start(...)` in its constructor, everything else is here."""

    _plane: DataPlane | None = None
    _host: ServiceHost | None = None
    _exporting: asyncio.Task[None] | None = None
    _member: Member
    _meter: Meter
    _signals: SignalReader | None = None

    async def start(
        self,
        identity: Identity,
        build: Callable[[Meter], Service],
        streams: StreamsConfig,
        peers: Sequence[Lessors] = (),
        export: Export | None = None,
        signals: SignalReader | None = None,
    ) -> None:
        """Build the service on its data plane, listen, run, and link to the peers' deployments."""
        quicken()
        self._meter, self._signals = Meter(), signals
        meter = self._meter
        self._plane = plane = DataPlane(f"{identity.role} data plane")
        service = await plane.call(lambda: build(meter))
        settle()
        settings = link_settings(streams)
        reporter = ReportingService(service, identity, meter)
        self._host = host = ServiceHost(reporter, identity, host=streams.host, ports=streams.ports, settings=settings)
        self._member = await plane.run(host.start())
        serve_loop = asyncio.get_running_loop()
        for lessors in peers:
            acquire = _across(lessors, identity, serve_loop)
            peer_set = PeerSet(reporter, identity, acquire, settings=settings, meter=meter)
            host.add_peers(peer_set)
            follow(lessors, peer_set, plane.loop)
        if export is not None:
            self._exporting = asyncio.create_task(export_regularly(lambda: plane.call(meter.samples), export))
        logger.info("listening", extra=about(host=self._member.host, port=self._member.port))

    async def lease(self, guest_name: str, guest_role: Role, replica: str) -> AsyncGenerator[str]:
        """Grant a lease: yields the one-time token, then stays open until either side ends it."""
        plane, host = self._running()
        lease = await plane.run(host.grant(Identity(guest_name, guest_role)))
        try:
            yield lease.token
            await plane.run(lease.ended.wait())
        finally:
            plane.submit(host.give_back(lease))

    async def record_replica_metadata(self) -> dict[str, str | int]:
        """Asked by Serve once the constructor has returned, and broadcast to every caller's request router."""
        return self._member.as_metadata()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Serve every few seconds where it autoscales; its policy reads them (autoscaling/)."""
        plane, _ = self._running()
        return {} if self._signals is None else self._signals.read(await plane.call(self._meter.samples))

    async def check_health(self) -> None:
        """Raise when the service has stopped, or its thread does not answer."""
        plane, host = self._running()
        try:
            await plane.run(host.check(), timeout_s=_HEALTH_TIMEOUT_S)
        except TimeoutError:
            raise RuntimeError(f"the data plane has not answered for {_HEALTH_TIMEOUT_S} s") from None

    def _running(self) -> tuple[DataPlane, ServiceHost]:
        if self._plane is None or self._host is None:
            raise RuntimeError("this replica is not running")
        return self._plane, self._host

    async def stop(self) -> None:
        """Part from the peers and end the data plane. Idempotent; a replica that never started has nothing to stop."""
        plane, self._plane = self._plane, None
        if plane is None:
            return
        if self._exporting is not None:
            self._exporting.cancel()
        try:
            if self._host is not None:
                await plane.run(self._host.close(), timeout_s=_STOP_TIMEOUT_S)
        finally:
            plane.stop()

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Serve calls this when the replica has drained and awaits what it returns; the interpreter gets nothing."""
        return self.stop() if self._plane is not None else None


def link_settings(streams: StreamsConfig) -> LinkSettings:
    """How this process's links are to be; ValueError that names a certificate file if one cannot be used."""
    files = streams.tls.files
    return LinkSettings(
        tls=None if files is None else StreamTls(TlsFiles(*files)),
        max_frame_bytes=streams.max_frame_bytes,
        max_buffer_bytes=streams.max_buffer_bytes,
    )


def follow(lessors: Lessors, peer_set: PeerSet, loop: asyncio.AbstractEventLoop) -> None:
    """Keep the peer set at the deployment's membership; the peer set lives on `loop`."""

    def apply(replicas: Mapping[str, Mapping[str, object]]) -> None:
        peer_set.set_members(_members(replicas))

    def on_change(replicas: Mapping[str, Mapping[str, object]]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: this replica is going away
            # A context of its own: Serve's would tie the leases to whatever request came first.
            loop.call_soon_threadsafe(apply, replicas, context=contextvars.Context())

    lessors.subscribe(on_change)


async def export_regularly(read: Callable[[], Awaitable[tuple[Sample, ...]]], export: Export) -> None:
    """Export what has been measured every few seconds, until cancelled; on a thread of its own, as it takes a while."""
    while True:
        await asyncio.sleep(EXPORT_PERIOD_S)
        try:
            samples = await read()
            await asyncio.to_thread(lambda: export(to_points(samples)))  # noqa: B023
        except Exception:
            # Whatever is wrong with metrics, requests are served; the next attempt may succeed.
            logger.exception("metrics could not be exported")


def end_process(reason: str) -> None:
    """End a replica that has nothing left to offer; its links close at once, and Serve replaces it."""
    logger.critical("%s; this replica ends", reason)
    logging.shutdown()
    os._exit(1)


def quicken() -> None:
    """Process-wide settings of a replica: its threads wait less for each other."""
    # The data plane takes the GIL back after every operator; at the default it may wait 5 ms for Serve's loop.
    sys.setswitchinterval(0.0005)


def settle() -> None:
    """Take what is loaded by now out of the garbage collector's sight.

    A full collection walks 450,000 objects of torch, transformers and ray, for a quarter of a second in which no
    round moves; afterwards it takes microseconds.
    """
    gc.collect()
    gc.freeze()


def _members(replicas: Mapping[str, Mapping[str, object]]) -> list[Member]:
    members = []
    for name, metadata in replicas.items():
        try:
            members.append(Member.from_metadata(metadata))
        except ValueError as error:
            logger.warning("replica %s is left alone: %s", name, error)
    return members


class _CarriedLease:
    """A lease of another loop: every call is carried there."""

    def __init__(self, lease: Lease, home: asyncio.AbstractEventLoop) -> None:
        self._lease = lease
        self._home = home

    @property
    def token(self) -> str:
        return self._lease.token

    async def wait_ended(self) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._lease.wait_ended(), self._home))

    def release(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and every call on it has ended
            self._home.call_soon_threadsafe(self._lease.release)


def _across(lessors: Lessors, identity: Identity, home: asyncio.AbstractEventLoop) -> Acquire:
    """Acquire on Serve's loop, where its handles live, for a caller on the data plane."""

    async def acquire(member: Member) -> Lease:
        future = asyncio.run_coroutine_threadsafe(lessors.acquire(member.identity.peer, *identity), home)
        try:
            return _CarriedLease(await asyncio.wrap_future(future), home)
        except asyncio.CancelledError:
            # It may have come through in this very moment: then nobody else would give it back.
            future.add_done_callback(_release)
            raise

    def _release(future: concurrent.futures.Future[Lease]) -> None:
        if not future.cancelled() and future.exception() is None:
            home.call_soon_threadsafe(future.result().release)

    return acquire
