"""From two readings of a replica's meter to what the autoscaler wants to know; nothing is counted twice for it."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from deployments import measures
from deployments.config_parts import AutoscalingConfig
from deployments.measures import Metric
from deployments.messages import Sample
from deployments.policy.signals import DrafterSignals, IngressSignals, RouterSignals, Signals, VerifierSignals
from deployments.reporting import Totals, totals_of


class Change:
    """What has been measured between two readings, `seconds` apart; the values of all labels together."""

    def __init__(self, before: Totals, after: Totals, seconds: float) -> None:
        self._before = before
        self._after = after
        self.seconds = max(seconds, 1e-9)

    def now(self, metric: Metric, *labels: str) -> float:
        """A gauge; with labels, of these alone."""
        family = self._after.get(metric.name, {})
        return sum(values[0] for found, values in family.items() if not labels or found == labels)

    def counts(self, metric: Metric) -> list[float]:
        """A histogram's new observations by bucket, and their sum as the last."""
        columns = [0.0] * (len(metric.buckets) + 2)
        for labels, values in self._after.get(metric.name, {}).items():
            known = self._before.get(metric.name, {}).get(labels, (0.0,) * len(values))
            columns = [column + new - old for column, new, old in zip(columns, values, known, strict=True)]
        return columns

    def count(self, metric: Metric) -> float:
        """How many new observations a histogram has."""
        return sum(self.counts(metric)[:-1])

    def share(self, metric: Metric) -> float:
        """The share of the time that a histogram of seconds has seen."""
        return min(1.0, self.counts(metric)[-1] / self.seconds)

    def mean(self, metric: Metric) -> float:
        """The mean of a histogram's new observations; 0 without any."""
        *counts, total = self.counts(metric)
        return total / sum(counts) if sum(counts) else 0.0

    def above(self, metric: Metric, bound: float) -> float:
        """How many new observations lie above a bound, as if those of its bucket were spread evenly."""
        *counts, _ = self.counts(metric)
        bucket = bisect_left(metric.buckets, bound)
        if bucket == len(metric.buckets):
            return 0.0
        low = metric.buckets[bucket - 1] if bucket else 0.0
        part = (metric.buckets[bucket] - bound) / (metric.buckets[bucket] - low)
        return sum(counts[bucket + 1 :]) + part * counts[bucket]

    def sum_of(self, metric: Metric) -> float:
        """How much a counter has grown."""
        known = self._before.get(metric.name, {})
        family = self._after.get(metric.name, {})
        return sum(values[0] - known.get(labels, (0.0,))[0] for labels, values in family.items())


class SignalReader:
    """Turns readings of one replica's meter into the figures that Serve passes on to the autoscaler."""

    def __init__(self, summarise: Callable[[Change], Signals], clock: Callable[[], float] = time.monotonic) -> None:
        self._summarise = summarise
        self._clock = clock
        self._before: Totals = {}
        self._read_s = clock()

    def read(self, samples: Iterable[Sample]) -> dict[str, float]:
        """The figures since the last reading."""
        now_s, after = self._clock(), totals_of(samples)
        change = Change(self._before, after, now_s - self._read_s)
        self._before, self._read_s = after, now_s
        return {name: float(value) for name, value in msgspec.structs.asdict(self._summarise(change)).items()}


def verifier_reader(max_step_tokens: int) -> SignalReader:
    """The reader of a verifier."""
    return SignalReader(partial(_verifier, max_step_tokens))


def drafter_reader() -> SignalReader:
    """The reader of a drafter."""
    return SignalReader(_drafter)


def router_reader() -> SignalReader:
    """The reader of a router."""
    return SignalReader(_router)


def ingress_reader(objectives: AutoscalingConfig) -> SignalReader:
    """The reader of an ingress."""
    return SignalReader(partial(_ingress, objectives))


def _verifier(max_step_tokens: int, change: Change) -> VerifierSignals:
    return VerifierSignals(
        busy_share=change.share(measures.STEP_SECONDS),
        step_ms=1e3 * change.mean(measures.STEP_SECONDS),
        queue_ms=1e3 * change.mean(measures.VERIFY_QUEUE_SECONDS),
        step_sessions=change.mean(measures.STEP_SESSIONS),
        token_share=change.mean(measures.STEP_TOKENS) / max_step_tokens,
        sessions=change.now(measures.VERIFIER_SESSIONS),
        waiting=change.now(measures.VERIFIER_WAITING),
        kv_usage=change.now(measures.KV_USAGE),
    )


def _drafter(change: Change) -> DrafterSignals:
    return DrafterSignals(
        busy_share=change.share(measures.BATCH_SECONDS),
        batch_ms=1e3 * change.mean(measures.BATCH_SECONDS),
        queue_ms=1e3 * change.mean(measures.QUEUE_SECONDS),
        batch_sessions=change.mean(measures.BATCH_SESSIONS),
        sessions=change.now(measures.DRAFTER_SESSIONS),
    )


def _router(change: Change) -> RouterSignals:
    return RouterSignals(
        sessions=change.now(measures.ROUTER_SESSIONS), waiting=change.now(measures.ROUTER_SESSIONS, "waiting")
    )


def _ingress(objectives: AutoscalingConfig, change: Change) -> IngressSignals:
    first, answers = measures.FIRST_TOKEN_SECONDS, measures.PER_TOKEN_SECONDS
    num_tokens = change.sum_of(measures.GENERATION_TOKENS) - change.count(first)
    return IngressSignals(
        requests=change.now(measures.RUNNING) + change.now(measures.WAITING),
        first_token_rate=change.count(first) / change.seconds,
        late_first_token_rate=change.above(first, objectives.first_token_s) / change.seconds,
        answer_rate=change.count(answers) / change.seconds,
        late_answer_rate=change.above(answers, objectives.token_s) / change.seconds,
        token_ms=1e3 * change.counts(measures.INTER_TOKEN_SECONDS)[-1] / num_tokens if num_tokens > 0 else 0.0,
    )
