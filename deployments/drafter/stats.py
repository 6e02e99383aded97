"""What a drafter counts about its batches."""

from __future__ import annotations

from collections.abc import Iterable

from deployments import measures
from deployments.metering import Meter


class DrafterStats:
    """The drafter's instruments."""

    def __init__(self, meter: Meter) -> None:
        self._batch_seconds = meter.histogram(measures.BATCH_SECONDS).cell()
        self._batch_sessions = meter.histogram(measures.BATCH_SESSIONS).cell()
        self._queue_seconds = meter.histogram(measures.QUEUE_SECONDS).cell()
        self._drafted_tokens = meter.counter(measures.DRAFTED_TOKENS).cell()
        self.shadow_gaps = meter.counter(measures.SHADOW_GAPS).cell()
        self.bad_deltas = meter.counter(measures.BAD_DELTAS).cell()
        self._sessions = meter.gauge(measures.DRAFTER_SESSIONS).cell()

    def add_batch(self, batch_s: float, waited_s: Iterable[float], num_tokens: int) -> None:
        """Count a batch; `waited_s` has, for each of its sessions, the time since its go-ahead."""
        num_sessions = 0
        for session_s in waited_s:
            num_sessions += 1
            self._queue_seconds.observe(session_s)
        self._batch_seconds.observe(batch_s)
        self._batch_sessions.observe(num_sessions)
        self._drafted_tokens.add(num_tokens)

    def refresh(self, num_sessions: int) -> None:
        """Set the gauge."""
        self._sessions.set(num_sessions)

    @property
    def num_batches(self) -> int:
        """Batches so far."""
        return sum(self._batch_seconds.counts)

    @property
    def num_draft_tokens(self) -> int:
        """Tokens drafted so far."""
        return int(self._drafted_tokens.value)
