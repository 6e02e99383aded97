"""Whose turn it is where several tenants queue for the same steps.

Deficit round robin (Shreedhar and Varghese, 1995) with a quantum of one token: whoever has had the fewest tokens is
next. A tenant that has nothing queued saves nothing up, and what it has had too much is not forgotten meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush


class FairTurns:
    """How many tokens each tenant has had, since it last had nothing to wait for."""

    def __init__(self) -> None:
        self._had: dict[str, int] = {}
        self._level = 0

    def order(self, tenants: Sequence[str], costs: Sequence[int]) -> list[int]:
        """The places of queued entries in the order of their turns, if each takes so many tokens.

        A tenant's own entries keep their order. With T tenants and entries of c tokens at most, before a tenant's n-th
        entry go no more than T (n + 1) c tokens of others, now and in steps to come, whatever they queue.
        """
        queues: dict[str, deque[int]] = {}
        for place, tenant in enumerate(tenants):
            queues.setdefault(tenant, deque()).append(place)
        self._rise(queues)
        if len(queues) < 2:
            return list(range(len(tenants)))
        turns = [(self._had[tenant], queue[0], tenant) for tenant, queue in queues.items()]
        heapify(turns)
        places = []
        while turns:
            had, place, tenant = heappop(turns)
            queue = queues[tenant]
            places.append(queue.popleft())
            if queue:
                heappush(turns, (had + costs[place], queue[0], tenant))
        return places

    def served(self, tenant: str, num_tokens: int) -> None:
        """One of the tenant's entries that were put in order has taken so many tokens."""
        self._had[tenant] += num_tokens

    def _rise(self, queued: Mapping[str, object]) -> None:
        """Nobody who queues is further behind than the furthest of those who queued before; forget who owes nothing."""
        waiting = [self._had[tenant] for tenant in queued if tenant in self._had]
        self._level = max(self._level, min(waiting, default=self._level))
        self._had = {tenant: had for tenant, had in self._had.items() if had > self._level or tenant in queued}
        for tenant in queued:
            self._had[tenant] = max(self._level, self._had.get(tenant, 0))
