"""Roles whose steps last as long as on named hardware: real tokens, computed here, at the speed of a cost table.

    compute -> wait until the table's time is over -> publish
               what peers send meanwhile is received, kept, and taken in order after that

Two cores cannot show what separate GPUs do: roles compete for them. A paced role computes with a small model and then
sleeps, so that protocol, lookahead, overlap, scaling and faults run as they would there. Its speed is the table's and
says nothing of any engine, so whoever looks is told: the log at the start, /v1/models, and a metric.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, Literal, TypeVar

from deployments import measures
from deployments.link import Link
from deployments.messages import Message
from deployments.metering import Meter
from deployments.service_host import Service

logger = logging.getLogger("outrider.pacing")

MAX_HELD = 1 << 16
"""Messages and links that may come during one step; a peer that sends more than that loses its link."""
_MAX_ADVANCE_MS = 1.5
"""What a timer's late waking may take off the next wait: selectors wake up to a millisecond late."""

Work = TypeVar("Work")


class Pace(Generic[Work]):
    """How long one role's steps take. `predict` tells the milliseconds of a step from what is in it."""

    def __init__(
        self,
        hardware: str,
        role: Literal["verifier", "drafter"],
        predict: Callable[[Work], float],
        meter: Meter | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        steps = (meter or Meter()).counter(measures.PACED_STEPS)
        self._on_time, self._late = (steps.cell(role, hardware, outcome) for outcome in ("on_time", "late"))
        self._predict = predict
        self._clock = clock
        self._advance_ms = 0.0
        self._held: deque[Callable[[], None]] = deque()
        self.is_holding = False
        logger.warning("this %s is paced: its steps last as on %s, whatever they take here", role, hardware)

    async def step_over(self, work: Work, started_s: float) -> None:
        """Return when a step that began at `started_s` and has been computed would be over.

        From then on until the caller next awaits, what came meanwhile is still held.
        """
        left_ms = self._predict(work) - self._advance_ms - (self._clock() - started_s) * 1e3
        (self._on_time if left_ms >= 0.0 else self._late).add()
        due_s = self._clock() + left_ms / 1e3
        self.is_holding = True
        try:
            if left_ms > 0.0:
                await asyncio.sleep(left_ms / 1e3)
        finally:
            self._advance_ms = min(_MAX_ADVANCE_MS, max(0.0, (self._clock() - due_s) * 1e3)) if left_ms > 0.0 else 0.0
            asyncio.get_running_loop().call_soon(self._let_in)

    def take(self, event: Callable[[], None], max_held: float = MAX_HELD) -> bool:
        """Let an event happen, after the present step if there is one; False if too many wait for that."""
        if not self.is_holding:
            event()
        elif len(self._held) >= max_held:
            return False
        else:
            self._held.append(event)
        return True

    def _let_in(self) -> None:
        self.is_holding = False
        while self._held:
            self._held.popleft()()


class PacedService:
    """A service whose steps a Pace draws out: nothing reaches it between a step's beginning and its end."""

    def __init__(self, service: Service, pace: Pace[Work]) -> None:
        self._service = service
        self._pace = pace

    async def run(self) -> None:
        """Run the service."""
        await self._service.run()

    def link_opened(self, link: Link) -> None:
        """Tell the service in its turn."""
        self._take(link, partial(self._service.link_opened, link), MAX_HELD)

    def received(self, link: Link, message: Message) -> None:
        """Hand a message over in its turn."""
        self._take(link, partial(self._service.received, link, message), MAX_HELD)

    def link_closed(self, link: Link) -> None:
        """Tell the service in its turn; this is never left out, and a link has only one."""
        self._take(link, partial(self._service.link_closed, link), math.inf)

    def _take(self, link: Link, event: Callable[[], None], max_held: float) -> None:
        def guarded() -> None:
            try:
                event()
            except Exception:  # as the stream has it: what a message does wrong costs its link and no more
                logger.exception("what %s sent could not be handled", link)
                link.fail("its message could not be handled")

        if not self._pace.take(guarded, max_held):
            link.fail("too much came during one step")
