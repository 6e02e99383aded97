"""Virtual time: callbacks in the order of their times."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class EventQueue:
    """A clock that jumps from one event to the next. Events of one time run in the order they were made."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, delay_ms: float, callback: Callable[[], None]) -> None:
        """Call back `delay_ms` from now."""
        heapq.heappush(self._events, (self.now_ms + max(0.0, delay_ms), next(self._order), callback))

    def run_until(self, is_over: Callable[[], bool]) -> None:
        """Run events until `is_over`, or until there are none left."""
        while self._events and not is_over():
            self.now_ms, _, callback = heapq.heappop(self._events)
            callback()
