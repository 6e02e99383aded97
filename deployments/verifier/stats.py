"""What a verifier counts about its steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deployments import measures
from deployments.metering import Meter
from deployments.verifier.engine import Chunk
from deployments.verifier.session import Session


class VerifierStats:
    """The verifier's instruments."""

    def __init__(self, meter: Meter) -> None:
        self._step_seconds = meter.histogram(measures.STEP_SECONDS).cell()
        self._queue_seconds = meter.histogram(measures.VERIFY_QUEUE_SECONDS).cell()
        self._step_tokens = meter.histogram(measures.STEP_TOKENS).cell()
        self._step_sessions = meter.histogram(measures.STEP_SESSIONS).cell()
        self._prompt_tokens = meter.counter(measures.STEP_PROMPT_TOKENS).cell()
        self._prefix_queries = meter.counter(measures.PREFIX_QUERIES).cell()
        self._prefix_hits = meter.counter(measures.PREFIX_HITS).cell()
        self._preemptions = meter.counter(measures.PREEMPTIONS).cell()
        self._sessions = meter.gauge(measures.VERIFIER_SESSIONS).cell()
        self._waiting = meter.gauge(measures.VERIFIER_WAITING).cell()
        self._kv_usage = meter.gauge(measures.KV_USAGE).cell()

    def add_waits(self, sessions: Iterable[Session], now_s: float) -> None:
        """Count how long the sessions of a step that begins have waited for it; who has been counted waits no more."""
        for session in sessions:
            if session.asked_s is not None:
                self._queue_seconds.observe(now_s - session.asked_s)
                session.asked_s = None

    def add_step(self, chunks: Sequence[Chunk], step_s: float) -> None:
        """Count a step. What a chunk computes besides its proposal and its last token is prompt."""
        num_tokens = sum(len(chunk.tokens) for chunk in chunks)
        num_decoding = sum(chunk.num_drafted + 1 for chunk in chunks if not chunk.is_partial)
        self._step_seconds.observe(step_s)
        self._step_tokens.observe(num_tokens)
        self._step_sessions.observe(len(chunks))
        self._prompt_tokens.add(num_tokens - num_decoding)

    def add_prefix(self, num_tokens: int, num_reused: int) -> None:
        """Count a session that was opened, and what of its tokens need not be computed."""
        self._prefix_queries.add(num_tokens)
        self._prefix_hits.add(num_reused)

    def add_preemption(self) -> None:
        """Count a session that gave its blocks back to others."""
        self._preemptions.add()

    def refresh(self, num_sessions: int, num_waiting: int, kv_usage: float) -> None:
        """Set the gauges."""
        self._sessions.set(num_sessions)
        self._waiting.set(num_waiting)
        self._kv_usage.set(kv_usage)
