"""What a sweep asks for and finds: loads, settings, one request's times, and the row that many of them make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

Lookahead = int | Literal["auto"]
MIXED = "mixed"
SWEEP_CLASSES = ("structured", "code", "prose", MIXED)
"""Kinds of text that there are held-out prompts of, and all of them in turn."""


@dataclass(frozen=True, slots=True)
class Load:
    """How requests arrive: `concurrency` in a closed loop, or `rate` a second at random times (Poisson)."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"x{self.concurrency}" if self.rate is None else f"{self.rate:g}/s"


@dataclass(frozen=True, slots=True)
class Place:
    """A load of one kind of text."""

    request_class: str
    load: Load

    def __str__(self) -> str:
        return f"{self.request_class} {self.load}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a request must keep to for being counted as good: its first token's time, and the mean time of the rest."""

    ttft_ms: float = 500.0
    tpot_ms: float = 50.0

    def longest_s(self, num_tokens: int) -> float:
        """How long a request of so many tokens may take and still be good."""
        return (self.ttft_ms + num_tokens * self.tpot_ms) / 1e3


@dataclass(slots=True)
class Trace:
    """One request: when it was due, when chunks came and how many tokens were there by then. Seconds on one clock.

    `is_done` says that the answer came to its end; `has_failed` that the endpoint had no room for it; `cut_s` when the
    bench hung up before the end; `is_estimated` that the endpoint told the number of tokens at the end only, or not at
    all. `histogram` has the rounds by their number of accepted tokens; `is_told` says
    that the endpoint tells of rounds at all.
    """

    due_s: float
    chunks: list[tuple[float, int]] = field(default_factory=list)
    is_done: bool = False
    has_failed: bool = False
    cut_s: float | None = None
    is_estimated: bool = False
    is_told: bool = False
    num_rounds: int = 0
    num_accepted_tokens: int = 0
    num_prompt_tokens: int = 0
    histogram: dict[int, int] = field(default_factory=dict)

    def take(self, now_s: float, has_text: bool, num_tokens: int | None) -> None:
        """A chunk has come; `num_tokens` is the number of tokens so far, if it tells that.

        Chunks that don't count for one token each until the last word on their number, which is then spread over them.
        """
        if has_text:
            self.is_estimated |= num_tokens is None
            self.chunks.append((now_s, self.num_tokens + 1 if num_tokens is None else max(num_tokens, self.num_tokens)))
        elif num_tokens and self.is_estimated:
            share = num_tokens / self.num_tokens
            self.chunks = [(at_s, round(count * share)) for at_s, count in self.chunks]
            self.is_estimated = False
        elif num_tokens and self.chunks:
            # Their text, if they had any, came before.
            self.chunks[-1] = (self.chunks[-1][0], max(num_tokens, self.num_tokens))

    @property
    def num_tokens(self) -> int:
        return self.chunks[-1][1] if self.chunks else 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.is_done or self.has_failed or self.cut_s is not None

    @property
    def ttft_ms(self) -> float | None:
        """From its due time to the first text, or to the cut if there was none by then."""
        first_s = self.chunks[0][0] if self.chunks else self.cut_s
        return None if first_s is None else 1e3 * (first_s - self.due_s)

    @property
    def tpot_ms(self) -> float | None:
        """Mean time per token after the first chunk, to the last one or the cut; None where nothing came after it."""
        if not self.chunks:
            return None
        (first_s, num_first), (last_s, num_last) = self.chunks[0], self.chunks[-1]
        end_s = last_s if self.cut_s is None else self.cut_s
        return 1e3 * (end_s - first_s) / (num_last - num_first) if num_last > num_first else None

    @property
    def itl_ms(self) -> list[float]:
        """Between chunks: one of several tokens counts once."""
        times = [at_s for at_s, _ in self.chunks]
        return [1e3 * (after - before) for before, after in pairwise(times)]

    def tokens_between(self, start_s: float, stop_s: float) -> int:
        """How many tokens arrived in the interval."""
        total = before = 0
        for at_s, num_tokens in self.chunks:
            if start_s <= at_s < stop_s:
                total += num_tokens - before
            before = num_tokens
        return total

    def meets(self, slo: Slo) -> bool:
        """Whether it was answered in time; an answer of one chunk has no time per token."""
        ttft_ms = self.ttft_ms
        if not self.is_done or ttft_ms is None:
            return False
        return ttft_ms <= slo.ttft_ms and (self.tpot_ms or 0.0) <= slo.tpot_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One cell. Latencies are of requests that were due in the window, None where there is none.

    `num_cut` of them had not ended when the drain had: leaving them out would leave out the slowest, so they count with
    the times that they had reached, and a tail is at least what the row says. `concurrency` is None under Poisson
    arrivals, `request_rate` in a closed loop. `goodput` is requests per second that met the objective, `goodput_share`
    their share of those that were due.
    """

    lookahead: Lookahead
    concurrency: int | None
    request_rate: float | None
    request_class: str
    output_tokens_per_s: float
    ttft_ms_p50: float | None
    ttft_ms_p99: float | None
    tpot_ms_p50: float | None
    tpot_ms_p99: float | None
    itl_ms_p99: float | None
    acceptance_length: float | None
    goodput: float
    goodput_share: float | None
    num_requests: int
    num_failed: int
    num_cut: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The row as results.json has it."""
        return asdict(self)


def summarise(
    place: Place, lookahead: Lookahead, traces: Sequence[Trace], window: tuple[float, float], slo: Slo
) -> Row:
    """The row of a cell: tokens that arrived in the window, latencies of the requests that were due in it."""
    start_s, stop_s = window
    seconds = stop_s - start_s
    due = [trace for trace in traces if start_s <= trace.due_s < stop_s]
    done = [trace for trace in due if trace.is_done]
    ttfts = [value for trace in due if (value := trace.ttft_ms) is not None]
    tpots = [value for trace in due if (value := trace.tpot_ms) is not None]
    itls = [value for trace in due for value in trace.itl_ms]
    num_rounds = sum(trace.num_rounds for trace in done)
    num_good = sum(trace.meets(slo) for trace in due)
    return Row(
        lookahead=lookahead,
        concurrency=place.load.concurrency,
        request_rate=place.load.rate,
        request_class=place.request_class,
        output_tokens_per_s=sum(trace.tokens_between(start_s, stop_s) for trace in traces) / seconds,
        ttft_ms_p50=percentile(ttfts, 50),
        ttft_ms_p99=percentile(ttfts, 99),
        tpot_ms_p50=percentile(tpots, 50),
        tpot_ms_p99=percentile(tpots, 99),
        itl_ms_p99=percentile(itls, 99),
        acceptance_length=1 + sum(trace.num_accepted_tokens for trace in done) / num_rounds if num_rounds else None,
        goodput=num_good / seconds,
        goodput_share=num_good / len(due) if due else None,
        num_requests=len(due),
        num_failed=sum(trace.has_failed for trace in due),
        num_cut=sum(trace.cut_s is not None for trace in due),
        seconds=seconds,
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that so many per cent of them do not exceed; None of none."""
    if not values:
        return None
    rank = max(1, math.ceil(percent / 100 * len(values)))
    return sorted(values)[rank - 1]
