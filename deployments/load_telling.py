"""How busy a replica is, told to all its routers: each of them knows its own sessions only."""

from __future__ import annotations

import time
from collections.abc import Callable

from deployments.link import Link, send_or_drop
from deployments.messages import Load

PERIOD_S = 0.2
"""While there is work, a change is told no more often than this."""


class LoadTelling:
    """The routers of one replica, and what they have been told."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._routers: dict[str, Link] = {}
        self._told: Load | None = None
        self._next_s = 0.0

    def joined(self, router: Link) -> None:
        """A router has come, and is told what the others know."""
        self._routers[router.peer] = router
        if self._told is not None:
            send_or_drop(router, self._told)

    def left(self, router: Link) -> None:
        """A router is gone."""
        if self._routers.get(router.peer) is router:
            del self._routers[router.peer]

    def tell(self, load: Load, *, is_idle: bool) -> None:
        """Tell a change, now or with a later call; now if it may be the last call for long, as work `is_idle`."""
        now_s = self._clock()
        if load == self._told or (now_s < self._next_s and not is_idle):
            return
        self._told, self._next_s = load, now_s + PERIOD_S
        for router in list(self._routers.values()):
            send_or_drop(router, load)
