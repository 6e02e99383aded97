"""What drafters of every kind have in common: routers attach sessions, and work goes on while there is some."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

from deployments.drafter.stats import DrafterStats
from deployments.link import Link, send_or_drop
from deployments.load_telling import LoadTelling
from deployments.logs import about, epoch_name, session_name
from deployments.messages import Attach, Detach, DrafterKind, Introduce, Load, Message, SessionId
from deployments.metering import Meter

logger = logging.getLogger(__name__)


class Attached(Protocol):
    """A session, the router that attached it, and how."""

    @property
    def link(self) -> Link:
        """Where its proposals go."""

    @property
    def attach(self) -> Attach:
        """What the router said of it."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """An attached session of which nothing else is known."""

    link: Link
    attach: Attach


Entry = TypeVar("Entry", bound=Attached)


class AttachedSessions(ABC, Generic[Entry]):
    """An Endpoint; what a drafter does with its sessions is its kind's own. `_work` is set when there is something."""

    kind: ClassVar[DrafterKind]

    def __init__(self, meter: Meter | None) -> None:
        self._attached: dict[SessionId, Entry] = {}
        self._work = asyncio.Event()
        self._loads = LoadTelling()
        meter = meter or Meter()
        self.stats = DrafterStats(meter)
        meter.before_reading(lambda: self.stats.refresh(len(self._attached)))

    @property
    def num_sessions(self) -> int:
        """Sessions that are attached."""
        return len(self._attached)

    def link_opened(self, link: Link) -> None:
        """A router learns what it can be given here; nothing is owed to a verifier yet."""
        if link.role == "router":
            send_or_drop(link, Introduce(kind=self.kind))
            self._loads.joined(link)

    def link_closed(self, link: Link) -> None:
        """A router that is gone takes its sessions along."""
        self._loads.left(link)
        for session in [s for s, known in self._attached.items() if known.link is link]:
            self._drop(session)

    def received(self, link: Link, message: Message) -> None:
        """Take one message; the work itself happens in `run`. What an earlier epoch says is stale."""
        match message:
            case Attach():
                known = self._attached.get(message.session)
                if known is None or message.epoch >= known.attach.epoch:
                    logger.info("session attached", extra=about_attached(message, router=link.peer))
                    self._begin(link, message)
                    self._work.set()  # the load has changed
            case Detach():
                known = self._attached.get(message.session)
                if known is not None and message.epoch >= known.attach.epoch:
                    self._drop(message.session)
            case _:
                self._take(link, message)

    async def run(self) -> None:
        """Work while there is something to do, until cancelled."""
        while True:
            await self._work.wait()
            is_idle = not await self._turn()
            self._loads.tell(Load(num_sessions=len(self._attached), kind=self.kind), is_idle=is_idle)
            if is_idle:
                self._work.clear()
                continue
            # The first turn of the loop polls the sockets, the second runs what they brought.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def _drop(self, session: SessionId) -> None:
        known = self._attached.pop(session)
        logger.info("session detached", extra=about_attached(known.attach))
        self._forget(session)
        self._work.set()  # the load has changed

    @abstractmethod
    def _begin(self, link: Link, message: Attach) -> None:
        """Enter a session into `_attached`, or begin it anew."""

    @abstractmethod
    def _forget(self, session: SessionId) -> None:
        """The session is not attached any more."""

    @abstractmethod
    def _take(self, link: Link, message: Message) -> None:
        """What else comes; ValueError for what this kind does not take."""

    @abstractmethod
    async def _turn(self) -> bool:
        """Do a batch of work; False if there was none."""


def about_attached(attach: Attach, **more: str | None) -> dict[str, dict[str, object]]:
    """What a log line about an attached session says of it."""
    return about(session=session_name(attach.session), request=attach.request, epoch=epoch_name(attach.epoch), **more)
