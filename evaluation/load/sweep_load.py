"""Keeps an endpoint under one load for the length of a window: a closed loop, or Poisson arrivals.

    warm-up | window: what is measured | drain: requests of the window end

Every wait ends at the drain's end at the latest; what is under way then is cut, which cancels it at the endpoint.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import httpx

from evaluation.load.sweep_client import Target, stream
from evaluation.load.sweep_records import Load, Lookahead, Trace
from evaluation.pocket.records import Example

MAX_IN_FLIGHT = 1024
"""Of Poisson arrivals: an endpoint that falls behind meets this bound, and further arrivals count as failed."""

_RETRY_S = 0.2
"""A stream of a closed loop that was refused tries again after this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a cell lasts, seconds; its drain is an upper bound."""

    warm_up_s: float
    window_s: float
    drain_s: float


@dataclass(slots=True)
class Run:
    """One cell under way: its requests so far."""

    target: Target
    lookahead: Lookahead
    examples: Iterator[Example]
    traces: list[Trace]

    async def ask(self, client: httpx.AsyncClient, due_s: float) -> Trace:
        """One request, answered to its end."""
        trace = Trace(due_s)
        self.traces.append(trace)
        await stream(client, self.target, next(self.examples), self.lookahead, trace)
        return trace


def measure_cell(run: Run, load: Load, timing: Timing, seed: int) -> tuple[float, float]:
    """Put the load on the endpoint; returns the window, and leaves its requests in `run.traces`. EndpointError."""
    return asyncio.run(_measure(run, load, timing, seed))


async def _measure(run: Run, load: Load, timing: Timing, seed: int) -> tuple[float, float]:
    # Making a client takes a while: that is no part of the load.
    async with run.target.client(load.concurrency or MAX_IN_FLIGHT) as client:
        begun_s = time.perf_counter()
        start_s = begun_s + timing.warm_up_s
        stop_s = start_s + timing.window_s
        with suppress(TimeoutError):
            async with asyncio.timeout(timing.warm_up_s + timing.window_s + timing.drain_s):
                try:
                    if load.rate is None:
                        await _closed(run, client, load.concurrency or 1, stop_s)
                    else:
                        await _poisson(run, client, arrivals(load.rate, begun_s, stop_s, seed))
                except ExceptionGroup as errors:
                    # One request's error stops the others; several at once have one cause.
                    raise errors.exceptions[0] from None
    return start_s, stop_s


async def _closed(run: Run, client: httpx.AsyncClient, concurrency: int, stop_s: float) -> None:
    async def one_stream() -> None:
        while (now_s := time.perf_counter()) < stop_s:
            trace = await run.ask(client, now_s)
            if trace.has_failed:
                await asyncio.sleep(_RETRY_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(one_stream())


def arrivals(rate: float, begun_s: float, stop_s: float, seed: int) -> Iterator[float]:
    """Times of a Poisson process, the same after `begun_s` for every setting with the same seed."""
    chance, due_s = random.Random(seed), begun_s
    while (due_s := due_s + chance.expovariate(rate)) < stop_s:
        yield due_s


async def _poisson(run: Run, client: httpx.AsyncClient, times: Iterator[float]) -> None:
    """Requests at times that do not depend on the answers."""
    under_way: set[asyncio.Task[Trace]] = set()
    async with asyncio.TaskGroup() as group:
        for due_s in times:
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            if len(under_way) >= MAX_IN_FLIGHT:
                run.traces.append(Trace(due_s, has_failed=True))
                continue
            task = group.create_task(run.ask(client, due_s))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
