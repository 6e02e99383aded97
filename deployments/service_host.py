"""One service on its data plane: its listener, the leases it granted, and its links to other roles.

Serve's loop and the data plane's loop are different threads: a DataPlane carries calls across.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from deployments.link import Endpoint, Identity, Link, LinkSettings, Listener, TokenBook, listen
from deployments.messages import PROTOCOL_VERSION, Message
from deployments.peers import Member, PeerSet

logger = logging.getLogger("outrider.host")
T = TypeVar("T")


class Service(Endpoint, Protocol):
    """An endpoint with work of its own."""

    async def run(self) -> None:
        """Work until cancelled."""


class DataPlane:
    """A thread with an event loop of its own. Everything on it is called through `run`."""

    def __init__(self, name: str) -> None:
        # The selector loop, not uvloop: it writes to the socket within `send`, uvloop at the end of the
        # iteration, which for an engine that steps inline is a whole step later.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs on the thread."""
        return self._loop

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            self._loop.close()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine on the data plane, from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def run(self, work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run a coroutine on the data plane and await it from another loop; TimeoutError past the deadline."""
        async with asyncio.timeout(timeout_s):
            return await asyncio.wrap_future(self.submit(work))

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function on the data plane's thread (models are loaded where they will run)."""

        async def work() -> T:
            return function()

        return await self.run(work())

    def stop(self, timeout_s: float = 1.0) -> None:
        """Stop the loop once what it does now is done, and wait a moment for that. Idempotent."""
        with contextlib.suppress(RuntimeError):  # closed already
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout_s)


@dataclass(eq=False, slots=True)
class GrantedLease:
    """A lease as the side sees it that granted it."""

    guest: Identity
    token: str
    ended: asyncio.Event


class GrantedLeases:
    """The guests that were let in. A lease ends with its guest's link, or if none was opened in time."""

    def __init__(self, service: Endpoint, tokens: TokenBook, opening_timeout_s: float = 30.0) -> None:
        self._service = service
        self._tokens = tokens
        self._opening_timeout_s = opening_timeout_s
        self._leases: dict[Identity, GrantedLease] = {}
        self._opened: dict[Link, GrantedLease] = {}

    @property
    def num_leases(self) -> int:
        """How many guests hold a lease."""
        return len(self._leases)

    def grant(self, guest: Identity) -> GrantedLease:
        """Let a guest in; a lease it held before ends."""
        self._end(self._leases.get(guest))
        lease = GrantedLease(guest, self._tokens.issue(guest), asyncio.Event())
        self._leases[guest] = lease
        asyncio.get_running_loop().call_later(self._opening_timeout_s, self._end_unless_linked, lease)
        return lease

    def give_back(self, lease: GrantedLease) -> None:
        """The guest needs the lease no more. Idempotent."""
        self._end(lease)

    def end_all(self) -> None:
        """Send all guests away."""
        for lease in list(self._leases.values()):
            self._end(lease)

    def _end(self, lease: GrantedLease | None) -> None:
        if lease is not None:
            lease.ended.set()
            if self._leases.get(lease.guest) is lease:
                del self._leases[lease.guest]

    def _end_unless_linked(self, lease: GrantedLease) -> None:
        if lease not in self._opened.values() and not lease.ended.is_set():
            logger.warning("%s took a lease and did not dial", lease.guest)
            self._end(lease)

    # -- Endpoint: pass everything on, and note which guests are linked -------------------------

    def link_opened(self, link: Link) -> None:
        """Note whose lease the link belongs to, and pass it on."""
        if (lease := self._leases.get(Identity(link.peer, link.role))) is not None:
            self._opened[link] = lease
        self._service.link_opened(link)

    def received(self, link: Link, message: Message) -> None:
        """Pass a message on."""
        self._service.received(link, message)

    def link_closed(self, link: Link) -> None:
        """Pass the loss on; the lease of this link is over (the guest may hold a newer one by now)."""
        self._end(self._opened.pop(link, None))
        self._service.link_closed(link)


class ServiceHost:
    """Runs a service on the loop it is started on: `start`, then `grant` and `add_peers`, then `close`."""

    def __init__(
        self, service: Service, identity: Identity, *, host: str, ports: range, settings: LinkSettings | None = None
    ) -> None:
        self._service = service
        self._identity = identity
        self._host = host
        self._ports = ports
        self._settings = settings
        self._tokens = TokenBook()
        self._leases = GrantedLeases(service, self._tokens)
        self._listener: Listener | None = None
        self._work: asyncio.Task[None] | None = None
        self._peer_sets: list[PeerSet] = []

    async def start(self) -> Member:
        """Listen and run; returns what peers need to know to dial."""
        self._listener = await listen(
            self._leases, self._identity, self._tokens, self._host, self._ports, self._settings
        )
        self._work = asyncio.create_task(self._service.run(), name=f"{self._identity.role} service")
        self._work.add_done_callback(self._on_work_done)
        return Member(self._identity, self._host, self._listener.port, PROTOCOL_VERSION)

    def add_peers(self, peers: PeerSet) -> None:
        """Keep a set of peers, to be closed together with the rest."""
        self._peer_sets.append(peers)

    async def grant(self, guest: Identity) -> GrantedLease:
        """A lease for a guest."""
        return self._leases.grant(guest)

    async def give_back(self, lease: GrantedLease) -> None:
        """The guest needs the lease no more."""
        self._leases.give_back(lease)

    async def check(self) -> None:
        """Raise RuntimeError when the service has stopped; that this runs at all shows that the loop does."""
        if self._work is None or self._work.done():
            raise RuntimeError(f"the {self._identity.role} service has stopped; see its log for the reason")

    async def close(self) -> None:
        """Part from all peers, then stop the service."""
        self._leases.end_all()
        await asyncio.gather(*(peers.close() for peers in self._peer_sets))
        if self._listener is not None:
            self._listener.close()
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    def _on_work_done(self, work: asyncio.Task[None]) -> None:
        if not work.cancelled():
            logger.error("the %s service has stopped", self._identity.role, exc_info=work.exception())
