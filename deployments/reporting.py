"""Who has measured what: each replica reports to its routers, which pass everything on to the ingresses.

    ingress, verifier, drafter --Report--> router --Reports--> ingress      once a second

So every ingress can tell the whole of it, whichever of them is asked. A Reporter stands between the links and the
service, and the service knows nothing of reports.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from deployments import measures
from deployments.link import Endpoint, Identity, Link, send_or_drop
from deployments.measures import CATALOGUE, Metric
from deployments.messages import Message, Report, Reports, Role, Sample
from deployments.metering import Meter
from deployments.service_host import Service

PERIOD_S = 1.0
GONE_AFTER_S = 10.0
"""A replica that has not reported for so long is gone: its sums stay, its gauges count no more."""
MAX_GONE = 256
"""So many replicas that are gone are remembered; then the sums of the first are forgotten."""

Values = tuple[float, ...]
Totals = dict[str, dict[tuple[str, ...], Values]]
"""By metric and label values: what all replicas make together."""


@dataclass(slots=True)
class _Entry:
    report: Report
    heard_s: float


class Board:
    """The last report of every replica ever heard of."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    def take(self, report: Report) -> bool:
        """Note a report; False if one as new is known. Samples that are no samples of the catalogue are left out."""
        known = self._entries.get(report.peer)
        if known is not None and report.number <= known.report.number:
            return False
        samples = tuple(sample for sample in report.samples if _is_sound(sample))
        sound = Report(peer=report.peer, role=report.role, number=report.number, samples=samples)
        self._entries.pop(report.peer, None)
        self._entries[report.peer] = _Entry(sound, self._clock())
        self._forget()
        return True

    def _forget(self) -> None:
        """Entries lie in the order in which they were heard of last."""
        oldest = next(iter(self._entries))
        if len(self._entries) > MAX_GONE and not self._is_live(self._entries[oldest]):
            del self._entries[oldest]

    def _is_live(self, entry: _Entry) -> bool:
        return self._clock() - entry.heard_s < GONE_AFTER_S

    @property
    def peers(self) -> Collection[str]:
        """Who has been heard of."""
        return self._entries.keys()

    @property
    def reports(self) -> list[Report]:
        """The last word of every replica."""
        return [entry.report for entry in self._entries.values()]

    def num_live(self, role: Role) -> int:
        """How many replicas of a role have been heard of lately."""
        return sum(entry.report.role == role and self._is_live(entry) for entry in self._entries.values())

    def totals(self, own: Report | None = None) -> Totals:
        """All replicas together; `own` is this replica's present word, in place of what the board has of it."""
        totals: Totals = {}
        if own is not None:
            _add_up(totals, own.samples, is_live=True)
        for entry in self._entries.values():
            if own is None or entry.report.peer != own.peer:
                _add_up(totals, entry.report.samples, is_live=self._is_live(entry))
        return totals


def totals_of(samples: Iterable[Sample]) -> Totals:
    """What one replica alone has measured."""
    totals: Totals = {}
    _add_up(totals, samples, is_live=True)
    return totals


def _is_sound(sample: Sample) -> bool:
    name, labels, values = sample
    metric = CATALOGUE.get(name)
    return metric is not None and len(labels) == len(metric.labels) and len(values) == _num_values(metric)


def _num_values(metric: Metric) -> int:
    return len(metric.buckets) + 2 if metric.kind == "histogram" else 1


def _add_up(totals: Totals, samples: Iterable[Sample], *, is_live: bool) -> None:
    for name, labels, values in samples:
        metric = CATALOGUE[name]
        if metric.kind == "gauge" and not is_live:
            continue
        family = totals.setdefault(name, {})
        before = family.get(labels)
        family[labels] = values if before is None else _combined(metric, before, values)


def _combined(metric: Metric, left: Values, right: Values) -> Values:
    if metric.combine == "sum":
        return tuple(a + b for a, b in zip(left, right, strict=True))
    return (max if metric.combine == "max" else min)(left, right)


def resident_bytes() -> int | None:
    """What this process holds in memory; None where the system does not tell it this way (macOS)."""
    try:
        num_pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return num_pages * os.sysconf("SC_PAGE_SIZE")


class Reporter:
    """An Endpoint around a service's: reports are its own business, everything else is passed on."""

    def __init__(self, inner: Endpoint, identity: Identity, meter: Meter, board: Board | None = None) -> None:
        self._inner = inner
        self._identity = identity
        self._meter = meter
        self._numbers = itertools.count(1)
        self._board = board or Board()
        self._links: dict[Link, tuple[int, int]] = {}
        self._peer_roles: set[Role] = set()
        self._news: set[str] = set()
        meter.gauge(measures.REPLICAS).cell(identity.role).set(1)
        meter.before_reading(self._count_links)
        meter.before_reading(self._weigh)

    def report(self) -> Report:
        """This replica's word as of now."""
        return Report(
            peer=self._identity.peer,
            role=self._identity.role,
            number=next(self._numbers),
            samples=self._meter.samples(),
        )

    def num_replicas(self, role: Role) -> int | None:
        """How many replicas of a role there are, this one included; None before anything has been heard."""
        if not self._board.reports:
            return None
        own = self._identity.role == role and self._identity.peer not in self._board.peers
        return self._board.num_live(role) + own

    def totals(self) -> Totals:
        """All replicas that this one has heard of, and itself."""
        return self._board.totals(self.report())

    async def report_regularly(self) -> None:
        """Report to the routers, or as a router to the ingresses, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.tell()

    def tell(self) -> None:
        """Send what is due; `report_regularly` calls this once a second."""
        own = self.report()
        if self._identity.role != "router":
            for link in self._links_to("router"):
                send_or_drop(link, own)
            return
        self._board.take(own)
        news = [report for report in self._board.reports if report.peer in self._news or report.peer == own.peer]
        self._news.clear()
        for link in self._links_to("ingress"):
            send_or_drop(link, Reports(items=tuple(news)))

    def _links_to(self, role: Role) -> Collection[Link]:
        return [link for link in self._links if link.role == role]

    def _count_links(self) -> None:
        """Bring the byte counters up to date: links count for themselves, as they are what the hot path touches."""
        role = self._identity.role
        for link, counted in self._links.items():
            self._links[link] = self._count_bytes(link, counted)
        for peer_role in self._peer_roles:
            self._meter.gauge(measures.LINKS).cell(role, peer_role).set(len(self._links_to(peer_role)))

    def _weigh(self) -> None:
        if (num_bytes := resident_bytes()) is not None:
            self._meter.gauge(measures.RESIDENT_MEMORY_BYTES).cell(self._identity.role).set(num_bytes)

    def _count_bytes(self, link: Link, counted: tuple[int, int]) -> tuple[int, int]:
        sent, received = link.num_sent_bytes, link.num_received_bytes
        labels = (self._identity.role, link.role)
        self._meter.counter(measures.LINK_SENT_BYTES).cell(*labels).add(sent - counted[0])
        self._meter.counter(measures.LINK_RECEIVED_BYTES).cell(*labels).add(received - counted[1])
        return sent, received

    # -- Endpoint -----------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        """Note the link and pass it on; an ingress that is new hears everything that is known."""
        self._links[link] = (0, 0)
        self._peer_roles.add(link.role)
        if link.role == "ingress":
            send_or_drop(link, Reports(items=tuple(self._board.reports)))
        self._inner.link_opened(link)

    def received(self, link: Link, message: Message) -> None:
        """Keep reports, pass everything else on."""
        if isinstance(message, Reports):
            for report in message.items:
                self._board.take(report)
        elif isinstance(message, Report):
            if message.peer == link.peer and self._board.take(message):  # nobody reports for others
                self._news.add(message.peer)
        else:
            self._inner.received(link, message)

    def link_closed(self, link: Link) -> None:
        """Count the link's last bytes and pass the loss on."""
        if (counted := self._links.pop(link, None)) is not None:
            self._count_bytes(link, counted)
        self._inner.link_closed(link)


class ReportingService(Reporter):
    """A service and its Reporter as one service."""

    def __init__(self, service: Service, identity: Identity, meter: Meter) -> None:
        super().__init__(service, identity, meter)
        self._service = service

    async def run(self) -> None:
        """Do the service's work, and report, until cancelled or the service breaks."""
        reporting = asyncio.create_task(self.report_regularly(), name=f"{self._identity.role} reports")
        try:
            await self._service.run()
        finally:
            reporting.cancel()
