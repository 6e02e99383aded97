"""Keeps an endpoint under one load for the length of a window: a closed loop, or Poisson arrivals.

    warm-up, until answers come | window: what is measured | drain: requests of the window end

The load stays the same to the drain's end, so that the window's last requests run in the same company as its first.
A slow endpoint gets a longer warm-up and window, up to `patience_s` more, so that there is something to measure. Every
wait has an end; what is under way after the last is cut, which cancels it at the endpoint.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from evaluation.load.sweep_client import Target, stream
from evaluation.load.sweep_records import Load, Lookahead, Trace
from evaluation.pocket.records import Example

LEAST_DONE = 3
"""Answers that a window waits for: with fewer there is no percentile to speak of."""

MAX_IN_FLIGHT = 1024
"""Of Poisson arrivals: an endpoint that falls behind meets this bound, and further arrivals count as failed."""

_RETRY_S = 0.2
"""A stream of a closed loop that was refused tries again after this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long a cell lasts, seconds; drain and patience are upper bounds."""

    warm_up_s: float
    window_s: float
    drain_s: float
    patience_s: float = 0.0


@dataclass(slots=True)
class Run:
    """One cell under way: its requests so far."""

    target: Target
    lookahead: Lookahead
    examples: Iterator[Example]
    traces: list[Trace]
    one_ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, client: httpx.AsyncClient, due_s: float) -> Trace:
        """One request, answered to its end or cut."""
        trace = Trace(due_s)
        self.traces.append(trace)
        try:
            await stream(client, self.target, next(self.examples), self.lookahead, trace)
        except asyncio.CancelledError:
            trace.cut_s = time.perf_counter()
            raise
        finally:
            self.one_ended.set()
        return trace

    def has_enough(self, start_s: float, stop_s: float) -> bool:
        """Whether the window has answers to be measured by, or an endpoint that takes no request at all."""
        due = self.due_in(start_s, stop_s)
        return sum(trace.is_done for trace in due) >= LEAST_DONE or (
            len(due) > 0 and all(trace.has_failed for trace in due)
        )

    def due_in(self, start_s: float, stop_s: float) -> list[Trace]:
        """The requests of a window."""
        return [trace for trace in self.traces if start_s <= trace.due_s < stop_s]


def measure_cell(run: Run, load: Load, timing: Timing, seed: int) -> tuple[float, float]:
    """Put the load on the endpoint; returns the window, and leaves its requests in `run.traces`. EndpointError."""
    return asyncio.run(_measure(run, load, timing, seed))


async def _measure(run: Run, load: Load, timing: Timing, seed: int) -> tuple[float, float]:
    # Making a client takes a while: that is no part of the load.
    async with run.target.client(load.concurrency or MAX_IN_FLIGHT) as client:
        begun_s = time.perf_counter()
        if load.rate is None:
            requests = _closed(run, client, load.concurrency or 1)
        else:
            requests = _poisson(run, client, arrivals(load.rate, begun_s, seed))
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(requests)
                window = await _watch(run, begun_s, timing)
                task.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
    await asyncio.sleep(0)  # a Ctrl-C that came while the requests were being cut would be lost with this task
    return window


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One request's error stops the others; several at once have one cause."""
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _watch(run: Run, begun_s: float, timing: Timing) -> tuple[float, float]:
    """Wait for the end of the cell; returns its window."""
    warm_s = begun_s + timing.warm_up_s
    await _sleep_until(warm_s)
    await _wait_for(run, lambda: any(trace.is_over for trace in run.traces), warm_s + timing.patience_s)
    start_s = max(warm_s, time.perf_counter())
    stop_s, last_s = start_s + timing.window_s, warm_s + timing.patience_s + timing.window_s
    await _sleep_until(stop_s)
    # By whole windows: one that ended with an answer would have one too many for its length.
    while stop_s < last_s and not run.has_enough(start_s, stop_s):
        stop_s = min(stop_s + timing.window_s, last_s)
        await _sleep_until(stop_s)
    due = run.due_in(start_s, stop_s)
    await _wait_for(run, lambda: all(trace.is_over for trace in due), stop_s + timing.drain_s)
    return start_s, stop_s


async def _sleep_until(end_s: float) -> None:
    await asyncio.sleep(max(0.0, end_s - time.perf_counter()))


async def _wait_for(run: Run, condition: Callable[[], bool], end_s: float) -> None:
    """Until the requests are as wanted, or the time is up."""
    with suppress(TimeoutError):
        async with asyncio.timeout(end_s - time.perf_counter()):
            while not condition():
                run.one_ended.clear()
                await run.one_ended.wait()


async def _closed(run: Run, client: httpx.AsyncClient, concurrency: int) -> None:
    async def one_stream() -> None:
        while True:
            trace = await run.ask(client, time.perf_counter())
            if trace.has_failed:
                await asyncio.sleep(_RETRY_S)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(one_stream())


def arrivals(rate: float, begun_s: float, seed: int) -> Iterator[float]:
    """Times of a Poisson process, the same after `begun_s` for every setting with the same seed."""
    chance, due_s = random.Random(seed), begun_s
    while True:
        due_s += chance.expovariate(rate)
        yield due_s


async def _poisson(run: Run, client: httpx.AsyncClient, times: Iterator[float]) -> None:
    """Requests at times that do not depend on the answers."""
    under_way: set[asyncio.Task[Trace]] = set()
    async with asyncio.TaskGroup() as group:
        for due_s in times:
            await _sleep_until(due_s)
            if len(under_way) >= MAX_IN_FLIGHT:
                run.traces.append(Trace(due_s, has_failed=True))
                continue
            task = group.create_task(run.ask(client, due_s))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
