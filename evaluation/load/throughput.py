"""Throughput by class of text and variant: prompts and answers of fixed length, variants in turn, repeats paired.

    for each repeat: for each class: for each number of streams: every variant, another one first each time

Nothing here looks at what an answer says; quality has runs of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import httpx

from evaluation.client import EndpointError, base_url, first_model, headers
from evaluation.client import Patience as ClientPatience
from evaluation.load.counters import Counts, counts_in, metrics_text
from evaluation.load.endpoint import SETTLE_S
from evaluation.load.metrics import RESIDENT_BYTES, by_label
from evaluation.load.sweep_client import follow
from evaluation.load.sweep_records import Trace, percentile
from evaluation.load.throughput_prompts import Prompts, TaskClass, prompts_for
from evaluation.load.throughput_records import Cell, Lengths, span
from evaluation.quality.variants import BASE, Variant

Progress = Callable[[int, int], None]
Key = tuple[str, int, str]
"""Class, streams, variant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where and how to ask. `timeout_s` bounds one answer."""

    url: str
    model: str | None = None
    api_key: str | None = None
    timeout_s: float = 300.0


@dataclass(slots=True)
class Runs:
    """What one cell has shown: a rate per repeat, all requests, and what only the endpoint's counters told."""

    rates: list[float] = field(default_factory=list)
    traces: list[Trace] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)


@dataclass(frozen=True, slots=True)
class Place:
    """An endpoint under measurement: its connections and its model."""

    client: httpx.AsyncClient
    url: str
    model: str


@dataclass(frozen=True, slots=True)
class Ask:
    """What a repeat of a cell asks: the variant, and the number that makes its prompts new."""

    variant: Variant
    repeat: int


class Measurement:
    """Measures every cell; `cells` is what has been found."""

    def __init__(
        self, target: Target, classes: Sequence[TaskClass], variants: Sequence[Variant], lengths: Lengths
    ) -> None:
        self.target = target
        self.classes = classes
        self.variants = variants
        self.lengths = lengths
        self.settle_s = SETTLE_S
        self.runs: dict[Key, Runs] = {}
        self.prompts: dict[tuple[str, str], Prompts] = {}
        self.model = ""
        self.memory_bytes: dict[str, float] = {}

    async def run(self, progress: Progress) -> None:
        """Measure. Raises EndpointError or RefusedError."""
        async with httpx.AsyncClient(
            headers=headers(self.target.api_key),
            limits=httpx.Limits(max_connections=max(self.lengths.streams) + 1),
            timeout=self.target.timeout_s,
        ) as client:
            places = {variant.name: await self._place(client, variant) for variant in self.variants}
            self.model = places[self.variants[0].name].model
            steps = list(self._steps())
            for number, (repeat, task_class, num_streams, variant) in enumerate(steps):
                progress(number, len(steps))
                place = places[variant.name]
                if (place.url, task_class.name) not in self.prompts:
                    found = await prompts_for(client, place.url, place.model, task_class, self.lengths.prompt_tokens)
                    self.prompts[place.url, task_class.name] = found
                prompts = self.prompts[place.url, task_class.name]
                runs = self.runs.setdefault((task_class.name, num_streams, variant.name), Runs())
                await self._measure(place, prompts, num_streams, Ask(variant, repeat), runs)
            progress(len(steps), len(steps))
            self.memory_bytes = await self._memory(places[self.variants[0].name])

    async def _memory(self, place: Place) -> dict[str, float]:
        """What the roles hold at the end, by role; nothing where the endpoint does not tell."""
        return by_label(await metrics_text(place.client, place.url), RESIDENT_BYTES, "role")

    def _steps(self) -> Iterator[tuple[int, TaskClass, int, Variant]]:
        for repeat in range(self.lengths.num_repeats):
            shift = repeat % len(self.variants)
            for task_class in self.classes:
                for num_streams in self.lengths.streams:
                    for variant in chain(self.variants[shift:], self.variants[:shift]):
                        yield repeat, task_class, num_streams, variant

    async def _place(self, client: httpx.AsyncClient, variant: Variant) -> Place:
        url = base_url(variant.url or self.target.url)
        known = variant.model or self.target.model
        return Place(client, url, known or await first_model(client, url, ClientPatience(timeout_s=30)))

    async def _measure(self, place: Place, prompts: Prompts, num_streams: int, ask: Ask, runs: Runs) -> None:
        """One repeat of one cell: a wave that nobody times, then those that count."""
        body = {
            "model": place.model,
            "max_tokens": self.lengths.output_tokens,
            "temperature": 0,
            "ignore_eos": True,
            **ask.variant.to_body(),
        }

        async def one(index: int) -> Trace:
            # Other texts in every repeat, and the same ones under every variant.
            text = index + ask.repeat * num_streams * (1 + self.lengths.num_waves)
            path, prompt = prompts.request(text, f"{self.lengths.seed}/{ask.repeat}/{num_streams}/{ask.variant.name}")
            trace = Trace(time.perf_counter())
            try:
                async with asyncio.timeout(self.target.timeout_s):
                    await follow(place.client, place.url, (path, {**body, **prompt}), trace)
            except TimeoutError as error:
                raise EndpointError(f"{place.url}: no answer within {self.target.timeout_s:g} s") from error
            if trace.has_failed:
                raise EndpointError(f"{place.url} has no room for {num_streams} streams: ask for fewer (--streams)")
            return trace

        untimed = await all_streams(one, num_streams, range(1))
        is_told = any(trace.is_told for trace in untimed)
        before = Counts() if is_told else await self._settled_counts(place)
        begun_s = time.perf_counter()
        traces = await all_streams(one, num_streams, range(1, 1 + self.lengths.num_waves))
        runs.rates.append(sum(trace.num_tokens for trace in traces) / (time.perf_counter() - begun_s))
        runs.traces += traces
        if not is_told:
            runs.counts += await self._settled_counts(place) - before

    async def _settled_counts(self, place: Place) -> Counts:
        """The endpoint's counters, once they have caught up with its answers."""
        await asyncio.sleep(self.settle_s)
        return counts_in(await metrics_text(place.client, place.url))

    @property
    def has_fixed_prompts(self) -> bool:
        """Whether every endpoint tokenised the prompts."""
        return all(prompts.ids for prompts in self.prompts.values())

    def cells(self) -> Iterator[Cell]:
        """What was found, by class, streams and variant."""
        for task_class in self.classes:
            for num_streams in self.lengths.streams:
                for variant in self.variants:
                    if runs := self.runs.get((task_class.name, num_streams, variant.name)):
                        yield self._cell((task_class.name, num_streams, variant.name), runs)

    def _cell(self, key: Key, runs: Runs) -> Cell:
        task_class, num_streams, variant = key
        base = self.runs.get((task_class, num_streams, BASE))
        ratios = [rate / other for rate, other in zip(runs.rates, base.rates, strict=False)] if base else []
        ttfts = [value for trace in runs.traces if (value := trace.ttft_ms) is not None]
        tpots = [value for trace in runs.traces if (value := trace.tpot_ms) is not None]
        itls = [value for trace in runs.traces for value in trace.itl_ms]
        num_rounds = sum(trace.num_rounds for trace in runs.traces) + runs.counts.num_rounds
        num_accepted = sum(trace.num_accepted_tokens for trace in runs.traces) + runs.counts.num_accepted_tokens
        return Cell(
            task_class=task_class,
            variant=variant,
            num_streams=num_streams,
            prompt_tokens=sum(trace.num_prompt_tokens for trace in runs.traces) / len(runs.traces),
            output_tokens=sum(trace.num_tokens for trace in runs.traces) / len(runs.traces),
            tokens_per_s=span(runs.rates),
            ttft_ms_p50=percentile(ttfts, 50),
            ttft_ms_p99=percentile(ttfts, 99),
            tpot_ms_p50=percentile(tpots, 50),
            tpot_ms_p99=percentile(tpots, 99),
            itl_ms_p50=percentile(itls, 50),
            itl_ms_p99=percentile(itls, 99),
            acceptance_length=1 + num_accepted / num_rounds if num_rounds else None,
            by_position=by_position(runs.traces) or runs.counts.rates,
            speed_up=span(ratios) if ratios and variant != BASE else None,
        )


async def all_streams(
    one: Callable[[int], Coroutine[None, None, Trace]], num_streams: int, waves: range
) -> list[Trace]:
    """Keep so many requests in flight, each stream asking for the next wave's answer when it has the last one."""
    traces: list[Trace] = []

    async def stream(number: int) -> None:
        for wave in waves:
            traces.append(await one(wave * num_streams + number))

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(num_streams):
                group.create_task(stream(number))
    except ExceptionGroup as errors:
        # One stream's error stops the others; several at once have one cause.
        raise errors.exceptions[0] from None
    return traces


def by_position(traces: Sequence[Trace]) -> tuple[float, ...]:
    """The share of rounds whose first, second, … drafted token was accepted."""
    num_rounds = sum(sum(trace.histogram.values()) for trace in traces)
    most = max((count for trace in traces for count in trace.histogram), default=0)
    return tuple(
        sum(num for trace in traces for count, num in trace.histogram.items() if count >= place) / num_rounds
        for place in range(1, most + 1)
    )
