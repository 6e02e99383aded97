"""What one ingress measures of its requests; exposition.py tells it to whoever asks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import get_args

from deployments import measures
from deployments.messages import Commit, FinishReason, RequestClass
from deployments.metering import Meter

_DRAFTERS = ("mtp", "draft_model", "prompt_lookup")
_STATUSES = ("400", "401", "403", "404", "413", "429", "500", "503")


class IngressMetrics:
    """The instruments of one ingress replica; requests report to it through RequestTimer."""

    def __init__(self, meter: Meter | None = None) -> None:
        meter = meter or Meter()
        self.running = meter.gauge(measures.RUNNING).cell()
        self.waiting = meter.gauge(measures.WAITING).cell()
        self.prompt_tokens = meter.counter(measures.PROMPT_TOKENS).cell()
        self.generation_tokens = meter.counter(measures.GENERATION_TOKENS).cell()
        self._drafts = meter.counter(measures.DRAFTS)
        self._draft_tokens = meter.counter(measures.DRAFT_TOKENS)
        self._accepted_tokens = meter.counter(measures.ACCEPTED_TOKENS)
        self._accepted_per_position = meter.counter(measures.ACCEPTED_PER_POSITION)
        self._success = meter.counter(measures.REQUEST_SUCCESS)
        self._success.prepare(get_args(FinishReason))
        self._failures = meter.counter(measures.REQUEST_FAILURE)
        self._failures.prepare(_STATUSES)
        self.first_token_s = meter.histogram(measures.FIRST_TOKEN_SECONDS)
        self.inter_token_s = meter.histogram(measures.INTER_TOKEN_SECONDS)
        self.per_token_s = meter.histogram(measures.PER_TOKEN_SECONDS)
        self.prepare([measures.NO_VARIANT])
        self.request_s = meter.histogram(measures.REQUEST_SECONDS).cell()
        self.request_prompt_tokens = meter.histogram(measures.REQUEST_PROMPT_TOKENS).cell()
        self.request_generation_tokens = meter.histogram(measures.REQUEST_GENERATION_TOKENS).cell()

    def prepare(self, variants: Iterable[str]) -> None:
        """Begin the series of these variants, so that their first increments are seen."""
        for variant, request_class in itertools.product(variants, get_args(RequestClass)):
            for by_class in (self.first_token_s, self.inter_token_s, self.per_token_s):
                by_class.cell(request_class, variant)
            for counter in (self._drafts, self._draft_tokens, self._accepted_tokens):
                for drafter in _DRAFTERS:
                    counter.cell(request_class, drafter, variant)

    def count_speculation(self, commit: Commit, request_class: str, variant: str) -> None:
        """Count one verification step."""
        if commit.num_drafted == 0:
            return
        labels = (request_class, commit.drafter, variant)
        self._drafts.cell(*labels).add()
        self._draft_tokens.cell(*labels).add(commit.num_drafted)
        self._accepted_tokens.cell(*labels).add(commit.num_accepted)
        for position in range(commit.num_accepted):
            self._accepted_per_position.cell(request_class, commit.drafter, str(position)).add()

    @contextmanager
    def counted_as_waiting(self) -> Iterator[None]:
        """Count a request that waits to be admitted."""
        self.waiting.add(1)
        try:
            yield
        finally:
            self.waiting.add(-1)

    def count_success(self, finish_reason: str) -> None:
        """Count a request that came to its end."""
        self._success.cell(finish_reason).add()

    def count_failure(self, status: int) -> None:
        """Count a request that was answered with an error of this HTTP status."""
        self._failures.cell(str(status)).add()


class RequestTimer:
    """Follows one request: first commit, every commit, end. `end` may come at any time, once.

    The client has waited since `waited_s` before.
    """

    def __init__(
        self,
        metrics: IngressMetrics,
        num_prompt_tokens: int,
        request_class: str = measures.UNKNOWN_CLASS,
        clock: Callable[[], float] = time.perf_counter,
        *,
        waited_s: float = 0.0,
        variant: str = measures.NO_VARIANT,
    ) -> None:
        self._metrics = metrics
        self._class = request_class
        self._variant = variant
        self._clock = clock
        self._num_prompt_tokens = num_prompt_tokens
        self._begun_s = clock() - waited_s
        self._first_s: float | None = None
        self._last_s = 0.0
        self._num_first = 0
        self.num_tokens = 0
        metrics.waiting.add(1)

    def commit(self, commit: Commit) -> None:
        """A commit has arrived."""
        now_s = self._clock()
        metrics = self._metrics
        if self._first_s is None:
            self._first_s, self._num_first = now_s, len(commit.tokens)
            metrics.first_token_s.cell(self._class, self._variant).observe(now_s - self._begun_s)
            metrics.prompt_tokens.add(self._num_prompt_tokens)
            metrics.waiting.add(-1)
            metrics.running.add(1)
        else:
            metrics.inter_token_s.cell(self._class, self._variant).observe(now_s - self._last_s)
        self._last_s = now_s
        self.num_tokens += len(commit.tokens)
        metrics.generation_tokens.add(len(commit.tokens))
        metrics.count_speculation(commit, self._class, self._variant)

    def end(self, finish_reason: str | None) -> None:
        """The request is over; None if it has failed or its client has left."""
        metrics = self._metrics
        if self._first_s is None:
            metrics.waiting.add(-1)
        else:
            metrics.running.add(-1)
        if finish_reason is None:
            return
        metrics.count_success(finish_reason)
        metrics.request_s.observe(self._clock() - self._begun_s)
        metrics.request_prompt_tokens.observe(self._num_prompt_tokens)
        metrics.request_generation_tokens.observe(self.num_tokens)
        num_later = self.num_tokens - self._num_first
        if self._first_s is not None and num_later > 0:
            metrics.per_token_s.cell(self._class, self._variant).observe((self._last_s - self._first_s) / num_later)
