"""Drafters inside a verifier's process: the same services, on the verifier's links and loop.

    router --Open, Verify------------>  verifier service -+
           --Attach, Detach, Draft-->  drafter service <-+ Delta, by an in-process link

A router sees one peer that verifies and drafts. What goes from verifier to drafter is neither
encoded nor sent, and is there when `send` returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from deployments.link import Endpoint, Identity, Link, LinkClosed
from deployments.messages import Attach, Detach, Draft, DrafterKind, Message
from deployments.service_host import Service
from deployments.traffic import colocated_name


class LocalLink(Link):
    """One end of a link between two endpoints of one loop."""

    is_local = True
    __slots__ = ("_other", "_receiver")

    def __init__(self, peer: Identity, receiver: Endpoint) -> None:
        self.peer, self.role = peer
        self.is_closed = False
        self.close_reason = ""
        self.num_sent_bytes = self.num_received_bytes = 0
        self._receiver = receiver
        self._other: LocalLink = self

    @property
    def buffered_bytes(self) -> int:
        """Nothing ever waits."""
        return 0

    def send(self, message: Message) -> None:
        """Hand one record over; LinkClosed on a closed link."""
        if self.is_closed:
            raise LinkClosed(f"the link to {self.role} {self.peer} is closed: {self.close_reason}")
        self._receiver.received(self._other, message)

    def close(self) -> None:
        """Both ends live as long as their process."""
        self.fail("closed on this side")

    def fail(self, reason: str) -> None:
        """Drop both ends. Idempotent."""
        for end in (self, self._other):
            if not end.is_closed:
                end.is_closed, end.close_reason = True, reason


def join(left: Endpoint, left_identity: Identity, right: Endpoint, right_identity: Identity) -> None:
    """Open a link between two endpoints of this loop."""
    to_right, to_left = LocalLink(right_identity, right), LocalLink(left_identity, left)
    to_right._other, to_left._other = to_left, to_right
    left.link_opened(to_right)
    right.link_opened(to_left)


class ColocatedService:
    """A verifier's service and drafters' services as one."""

    def __init__(self, identity: Identity, verifier: Service, drafters: Mapping[DrafterKind, Service]) -> None:
        self._verifier = verifier
        self._drafters = drafters
        for kind, drafter in drafters.items():
            name = colocated_name(identity.peer, kind)
            join(verifier, identity, drafter, Identity(name, "drafter"))

    async def run(self) -> None:
        """Run all of them until cancelled, or until one of them breaks."""
        async with asyncio.TaskGroup() as group:
            for service in (self._verifier, *self._drafters.values()):
                group.create_task(service.run())

    def link_opened(self, link: Link) -> None:
        """A router is a peer of all, a drafter elsewhere one of the verifier."""
        for service in self._services_of(link):
            service.link_opened(link)

    def received(self, link: Link, message: Message) -> None:
        """Each record has one service that takes it; a Detach is idempotent, and each knows its own sessions."""
        match message:
            case Attach(kind=kind):
                self._drafters[kind].received(link, message)
            case Draft():
                self._drafters["draft_model"].received(link, message)
            case Detach():
                for drafter in self._drafters.values():
                    drafter.received(link, message)
            case _:
                self._verifier.received(link, message)

    def link_closed(self, link: Link) -> None:
        """Tell those who were told of the link."""
        for service in self._services_of(link):
            service.link_closed(link)

    def _services_of(self, link: Link) -> tuple[Service, ...]:
        return (self._verifier, *self._drafters.values()) if link.role == "router" else (self._verifier,)
