"""Links to every member of another role's deployment, kept up while the membership lasts.

    member appears -> lease -> dial -> link ... link lost -> pause -> lease -> dial -> link
                                            ... member leaves -> close the link -> give the lease back

How a lease is acquired is handed in, so all of this runs without ray. Everything is on one loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from deployments import measures
from deployments.link import Endpoint, Identity, Invitation, Link, LinkSettings, dial
from deployments.messages import PROTOCOL_VERSION, Message, Role
from deployments.metering import Meter

logger = logging.getLogger("outrider.peers")


class Member(NamedTuple):
    """A replica that can be dialled, as it published itself."""

    identity: Identity
    host: str
    port: int
    protocol_version: int

    def as_metadata(self) -> dict[str, str | int]:
        """What a replica records about itself."""
        peer, role = self.identity
        version = self.protocol_version
        return {"peer": peer, "role": role, "host": self.host, "port": self.port, "protocol_version": version}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Member:
        """The opposite of `as_metadata`; ValueError when something is missing or of the wrong type."""
        try:
            said = msgspec.convert(metadata, _Metadata)
        except msgspec.ValidationError as error:
            raise ValueError(f"a replica published {dict(metadata)!r}: {error}") from error
        return cls(Identity(said.peer, said.role), said.host, said.port, said.protocol_version)


class _Metadata(msgspec.Struct, frozen=True, kw_only=True):
    peer: str
    role: Role
    host: str
    port: int
    protocol_version: int


class Lease(Protocol):
    """A peer's promise not to go away while the lease is held; both sides can end it."""

    @property
    def token(self) -> str:
        """The one-time token to dial with."""

    async def wait_ended(self) -> None:
        """Return once the other side has ended the lease."""

    def release(self) -> None:
        """Give the lease back. Idempotent."""


Acquire = Callable[[Member], Awaitable[Lease]]
"""Get a lease of this member; when cancelled it leaves none behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerTimeouts:
    """Deadlines of every step towards a link, and the pauses after one failed or was lost."""

    lease_timeout_s: float = 15.0
    dial_timeout_s: float = 10.0
    first_pause_s: float = 0.1
    max_pause_s: float = 5.0


class PeerSet:
    """Keeps one link to each member of one deployment; the service behind it sees links come and go."""

    def __init__(
        self,
        service: Endpoint,
        identity: Identity,
        acquire: Acquire,
        timeouts: PeerTimeouts | None = None,
        settings: LinkSettings | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._service = service
        self._identity = identity
        self._acquire = acquire
        self._timeouts = timeouts or PeerTimeouts()
        self._settings = settings
        self._keepers: dict[Member, asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        meter = meter or Meter()
        self._drains_open = meter.gauge(measures.DRAINS_OPEN).cell(identity.role)
        self._drain_seconds = meter.histogram(measures.DRAIN_SECONDS).cell(identity.role)
        self._closed: dict[Link, asyncio.Event] = {}

    @property
    def num_links(self) -> int:
        """How many links are open."""
        return len(self._closed)

    def set_members(self, members: Iterable[Member]) -> None:
        """Link to those that are new, part from those that have left."""
        wanted = {member for member in members if self._is_compatible(member)}
        for member in self._keepers.keys() - wanted:
            self._part_from(member)
        for member in sorted(wanted - self._keepers.keys()):
            self._keepers[member] = asyncio.create_task(self._keep(member), name=f"link to {member.identity}")

    async def close(self) -> None:
        """Part from all members; returns when every lease is given back."""
        for member in list(self._keepers):
            self._part_from(member)
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _part_from(self, member: Member) -> None:
        keeper = self._keepers.pop(member)
        keeper.cancel()
        self._leaving.add(keeper)
        self._drains_open.add(1)
        begun_s = asyncio.get_running_loop().time()
        keeper.add_done_callback(lambda _: self._on_parted(keeper, begun_s))

    def _on_parted(self, keeper: asyncio.Task[None], begun_s: float) -> None:
        self._leaving.discard(keeper)
        self._drains_open.add(-1)
        self._drain_seconds.observe(asyncio.get_running_loop().time() - begun_s)

    def _is_compatible(self, member: Member) -> bool:
        if member.protocol_version == PROTOCOL_VERSION:
            return True
        logger.warning("%s speaks protocol version %d: left alone", member.identity, member.protocol_version)
        return False

    async def _keep(self, member: Member) -> None:
        loop, pause_s = asyncio.get_running_loop(), self._timeouts.first_pause_s
        while True:
            begun_s = loop.time()
            try:
                await self._hold(member)
                logger.warning("the link to %s is lost; dialling again", member.identity)
            except Exception as error:
                # Anything may come out of a lease; the next attempt is the only answer to all of it.
                logger.warning("no link to %s: %s", member.identity, str(error) or type(error).__name__)
            if loop.time() - begun_s > self._timeouts.max_pause_s:
                pause_s = self._timeouts.first_pause_s
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, self._timeouts.max_pause_s)

    async def _hold(self, member: Member) -> None:
        """Lease, dial, and return when link or lease has ended; neither outlives this call."""
        async with asyncio.timeout(self._timeouts.lease_timeout_s):
            lease = await self._acquire(member)
        try:
            invitation = Invitation(member.identity, member.host, member.port, lease.token)
            link = await dial(
                self, self._identity, invitation, timeout_s=self._timeouts.dial_timeout_s, settings=self._settings
            )
            await self._until_over(link, lease)
        finally:
            lease.release()

    async def _until_over(self, link: Link, lease: Lease) -> None:
        closed = self._closed.get(link)
        if closed is None:  # gone before this task could run
            return
        ends = {asyncio.create_task(closed.wait()), asyncio.create_task(lease.wait_ended())}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            # The service moves its sessions when the link closes; only then may the peer go.
            link.close()
            await closed.wait()

    # -- Endpoint: pass everything on, and note which links are open ---------------------------

    def link_opened(self, link: Link) -> None:
        """Note the link and pass it on."""
        self._closed[link] = asyncio.Event()
        self._service.link_opened(link)

    def received(self, link: Link, message: Message) -> None:
        """Pass a message on."""
        self._service.received(link, message)

    def link_closed(self, link: Link) -> None:
        """Pass the loss on, then let the keeper act on it."""
        try:
            self._service.link_closed(link)
        finally:
            self._closed.pop(link).set()
