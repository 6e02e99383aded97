"""What one ingress measures, as Prometheus text: every family as `outrider_…` and as `vllm:…`.

The second spelling lets existing dashboards and load tools read an Outrider as they read a vLLM.
Each replica of the ingress counts its own requests: scrape them all, and sum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric

from deployments.ingress.router_metrics import RouterFamilies
from deployments.messages import Commit, RouterStatus

PREFIXES = ("outrider_", "vllm:")
CONTENT_TYPE = CONTENT_TYPE_LATEST
_FIRST_TOKEN_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_REQUEST_S = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 60, 120, 240, 480)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000)


class IngressMetrics:
    """The counters of one ingress replica; requests report to it through RequestTimer."""

    def __init__(self, model_name: str, router_statuses: Callable[[], Collection[RouterStatus]] = lambda: ()) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(RouterFamilies(model_name, router_statuses))
        self._model_name = model_name
        self.running = self._gauge("num_requests_running", "Requests that have their first token and not their last.")
        self.waiting = self._gauge("num_requests_waiting", "Requests that wait for their first token.")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests that began.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens received from the routers.")
        self.drafts = self._counter("spec_decode_num_drafts", "Verification steps that had a proposal.")
        self.draft_tokens = self._counter("spec_decode_num_draft_tokens", "Drafted tokens that were verified.")
        self.accepted_tokens = self._counter("spec_decode_num_accepted_tokens", "Drafted tokens that were accepted.")
        self._accepted_per_position = Counter(
            "spec_decode_num_accepted_tokens_per_pos",
            "Drafted tokens that were accepted, by their position in the proposal.",
            ("model_name", "position"),
            registry=self._registry,
        )
        self._success = Counter(
            "request_success", "Finished requests.", ("model_name", "finished_reason"), registry=self._registry
        )
        self._failures = Counter(
            "request_failure", "Refused and failed requests.", ("model_name", "status"), registry=self._registry
        )
        self.first_token_s = self._histogram(
            "time_to_first_token_seconds", "From the request to its first tokens.", _FIRST_TOKEN_S
        )
        self.inter_token_s = self._histogram(
            "inter_token_latency_seconds", "Between commits: one of several tokens counts once.", _TOKEN_S
        )
        self.per_token_s = self._histogram(
            "request_time_per_output_token_seconds", "Mean time per token after a request's first commit.", _TOKEN_S
        )
        self.request_s = self._histogram("e2e_request_latency_seconds", "From the request to its end.", _REQUEST_S)
        self.request_prompt_tokens = self._histogram("request_prompt_tokens", "Prompt tokens per request.", _TOKENS)
        self.request_generation_tokens = self._histogram(
            "request_generation_tokens", "Generated tokens per request.", _TOKENS
        )
        self._families = CollectorRegistry()
        self._families.register(_Spellings(self._registry))

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ("model_name",), registry=self._registry).labels(self._model_name)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("model_name",), registry=self._registry).labels(self._model_name)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model_name",), buckets=buckets, registry=self._registry).labels(self._model_name)

    def count_speculation(self, commit: Commit) -> None:
        """Count one verification step."""
        if commit.num_drafted == 0:
            return
        self.drafts.inc()
        self.draft_tokens.inc(commit.num_drafted)
        self.accepted_tokens.inc(commit.num_accepted)
        for position in range(commit.num_accepted):
            self._accepted_per_position.labels(self._model_name, str(position)).inc()

    def count_success(self, finish_reason: str) -> None:
        """Count a request that came to its end."""
        self._success.labels(self._model_name, finish_reason).inc()

    def count_failure(self, status: int) -> None:
        """Count a request that was answered with an error of this HTTP status."""
        self._failures.labels(self._model_name, str(status)).inc()

    def render(self) -> bytes:
        """The exposition text, in CONTENT_TYPE."""
        return generate_latest(self._families)


class RequestTimer:
    """Follows one request: first commit, every commit, end. `end` may come at any time, once."""

    def __init__(
        self, metrics: IngressMetrics, num_prompt_tokens: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._num_prompt_tokens = num_prompt_tokens
        self._begun_s = clock()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._num_first = 0
        self.num_tokens = 0
        metrics.waiting.inc()

    def commit(self, commit: Commit) -> None:
        """A commit has arrived."""
        now_s = self._clock()
        metrics = self._metrics
        if self._first_s is None:
            self._first_s, self._num_first = now_s, len(commit.tokens)
            metrics.first_token_s.observe(now_s - self._begun_s)
            metrics.prompt_tokens.inc(self._num_prompt_tokens)
            metrics.waiting.dec()
            metrics.running.inc()
        else:
            metrics.inter_token_s.observe(now_s - self._last_s)
        self._last_s = now_s
        self.num_tokens += len(commit.tokens)
        metrics.generation_tokens.inc(len(commit.tokens))
        metrics.count_speculation(commit)

    def end(self, finish_reason: str | None) -> None:
        """The request is over; None if it has failed or its client has left."""
        metrics = self._metrics
        if self._first_s is None:
            metrics.waiting.dec()
        else:
            metrics.running.dec()
        if finish_reason is None:
            return
        metrics.count_success(finish_reason)
        metrics.request_s.observe(self._clock() - self._begun_s)
        metrics.request_prompt_tokens.observe(self._num_prompt_tokens)
        metrics.request_generation_tokens.observe(self.num_tokens)
        num_later = self.num_tokens - self._num_first
        if self._first_s is not None and num_later > 0:
            metrics.per_token_s.observe((self._last_s - self._first_s) / num_later)


class _Spellings:
    """Yields every family of a registry once for each prefix, without the creation times."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for prefix in PREFIXES:
            for family in self._registry.collect():
                copy = Metric(prefix + family.name, family.documentation, family.type)
                for sample in family.samples:
                    if not sample.name.endswith("_created"):
                        copy.samples.append(sample._replace(name=prefix + sample.name))
                yield copy
