"""Who may have how much at once, decided before anything is done for a request.

    enter (sync: refused at once, or inside) -> start (places among the running) -> charge -> close

A request takes a place for each of its choices, since each is a session of its own.

Bounds are this replica's share of the deployment's: what every replica keeps, the deployment keeps.
Everything here runs on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from deployments.ingress import errors
from deployments.ingress.tenants import Tenant
from deployments.policy import token_bucket
from deployments.policy.token_bucket import Bucket

Priority = Literal["interactive", "batch"]
_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """Bounds of the deployment; `num_replicas` ingress replicas share them, until it is known how many there are."""

    max_running: int = 64
    max_waiting: int = 256
    max_wait_s: float = 30.0
    num_replicas: int = 1


@dataclass(slots=True)
class _Use:
    """What one tenant has of this replica."""

    num_inside: int = 0
    bucket: Bucket | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    num_places: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Admission:
    """The requests of one ingress replica, from the first look to the last byte."""

    def __init__(self, limits: AdmissionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._num_replicas = limits.num_replicas
        self._uses: dict[str, _Use] = {}
        self._queues: dict[Priority, deque[_Waiter]] = {"interactive": deque(), "batch": deque()}
        self.num_inside = 0
        self.num_running = 0

    @property
    def _max_running(self) -> int:
        return max(1, self._limits.max_running // self._num_replicas)

    @property
    def _max_waiting(self) -> int:
        return self._limits.max_waiting // self._num_replicas

    def share_among(self, num_replicas: int) -> None:
        """So many ingress replicas are there now. Who is inside stays; a larger share is handed out at once."""
        if num_replicas != self._num_replicas:
            self._num_replicas = max(1, num_replicas)
            self._hand_out()

    def run_at_most(self, max_running: int) -> None:
        """Verifiers or routers have come or gone. Who runs goes on; new places are handed out at once."""
        if max_running != self._limits.max_running:
            self._limits = replace(self._limits, max_running=max_running)
            self._hand_out()

    def enter(self, tenant: Tenant) -> Ticket:
        """A ticket, to be closed however the request ends; ApiError 429 or 503 where a bound is reached."""
        use = self._uses.setdefault(tenant.name, _Use())
        most = tenant.max_concurrent_requests
        if most is not None and use.num_inside >= max(1, most // self._num_replicas):
            raise errors.rate_limited(f"{tenant.name} has {use.num_inside} requests under way here", _RETRY_AFTER_S)
        rate = self._rate(tenant)
        if rate is not None and (wait_s := token_bucket.wait_s(self._bucket(use, rate), 1, rate)) > 0:
            raise errors.rate_limited(f"{tenant.name} has used its tokens per minute", wait_s)
        if self.num_inside >= self._max_running + self._max_waiting:
            raise errors.overloaded(f"{self.num_inside} requests are under way here", _RETRY_AFTER_S)
        self.num_inside += 1
        use.num_inside += 1
        return Ticket(self, tenant, use)

    def _rate(self, tenant: Tenant) -> float | None:
        most = tenant.tokens_per_minute
        return None if most is None else most / self._num_replicas

    def _bucket(self, use: _Use, rate: float) -> Bucket:
        now_s = self._clock()
        use.bucket = token_bucket.filled(use.bucket or token_bucket.full(rate, now_s), rate, now_s)
        return use.bucket

    def _take_places(self, wanted: int) -> int:
        """That many places, or all there can be for a request that wants more; 0 while they are not free."""
        num_places = min(wanted, self._max_running)
        if any(self._queues.values()) or self.num_running + num_places > self._max_running:
            return 0
        self.num_running += num_places
        return num_places

    async def _wait_for_places(self, wanted: int, priority: Priority) -> int:
        waiter = _Waiter(min(wanted, self._max_running))
        queue = self._queues[priority]
        queue.append(waiter)
        self._hand_out()
        try:
            async with asyncio.timeout(self._limits.max_wait_s):
                await waiter.granted
                return waiter.num_places
        except BaseException as error:
            if waiter.granted.done() and not waiter.granted.cancelled():
                self._give_places(waiter.num_places)  # they came in the moment in which nobody wanted them any more
            else:
                with contextlib.suppress(ValueError):  # passed over already
                    queue.remove(waiter)
                self._hand_out()  # it may have stood before one that wants fewer
            if isinstance(error, TimeoutError):
                detail = f"no place within {self._limits.max_wait_s:g} s"
                raise errors.overloaded(detail, _RETRY_AFTER_S) from None
            raise

    def _give_places(self, num_places: int) -> None:
        self.num_running -= num_places
        self._hand_out()

    def _hand_out(self) -> None:
        """Free places go to who has waited longest, the interactive first; nobody overtakes one that wants several."""
        for queue in self._queues.values():
            while queue:
                waiter = queue[0]
                if not waiter.granted.done():
                    waiter.num_places = min(waiter.num_places, self._max_running)  # the share may have shrunk
                    if self.num_running + waiter.num_places > self._max_running:
                        return
                    self.num_running += waiter.num_places
                    waiter.granted.set_result(None)
                queue.popleft()


class Ticket:
    """One request's right to be here. `close` gives everything back."""

    def __init__(self, admission: Admission, tenant: Tenant, use: _Use) -> None:
        self.tenant = tenant
        self._admission = admission
        self._use = use
        self.waited_s = 0.0
        self._num_places = 0
        self._is_closed = False
        self._num_charged = 0.0
        self._num_prompt_tokens = 0
        self._num_generated: Callable[[], int] = lambda: 0

    def start_at_once(self, num_choices: int = 1) -> bool:
        """Take the places for so many choices if they are free and nobody waits."""
        assert self._num_places == 0
        self._num_places = self._admission._take_places(num_choices)
        return self._num_places > 0

    async def start(self, priority: Priority, num_choices: int = 1) -> None:
        """Wait for the places; ApiError 503 where they do not come in time."""
        begun_s = self._admission._clock()
        self._num_places = await self._admission._wait_for_places(num_choices, priority)
        self.waited_s = self._admission._clock() - begun_s

    def charge(self, num_prompt_tokens: int, likely_tokens: int, num_generated: Callable[[], int]) -> None:
        """Take the tokens that the request is likely to need; ApiError 429 if the tenant has not that many now.

        What it has really used is settled when the ticket is closed.
        """
        self._num_prompt_tokens, self._num_generated = num_prompt_tokens, num_generated
        rate = self._admission._rate(self.tenant)
        if rate is None:
            return
        bucket = self._admission._bucket(self._use, rate)
        needed = min(float(num_prompt_tokens + likely_tokens), rate)
        if (wait_s := token_bucket.wait_s(bucket, needed, rate)) > 0:
            detail = f"{self.tenant.name} has not {needed:.0f} of its tokens per minute left for this request"
            raise errors.rate_limited(detail, wait_s)
        self._use.bucket = token_bucket.spent(bucket, needed)
        self._num_charged = needed

    def close(self, *, is_refused: bool) -> None:
        """Leave. A request that the service refused or failed costs no tokens. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._admission.num_inside -= 1
        self._use.num_inside -= 1
        if self._num_places:
            self._admission._give_places(self._num_places)
        if self._num_charged and self._use.bucket is not None:
            used = 0 if is_refused else self._num_prompt_tokens + self._num_generated()
            self._use.bucket = token_bucket.spent(self._use.bucket, used - self._num_charged)
