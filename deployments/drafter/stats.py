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
        self._answers = meter.counter(measures.DRAFT_ANSWERS).cell()
        self._answers_ahead = meter.counter(measures.DRAFT_ANSWERS_AHEAD).cell()
        self._hidden_seconds = meter.counter(measures.DRAFT_HIDDEN_SECONDS).cell()
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

    def add_answer(self, hidden_s: float, *, is_at_once: bool) -> None:
        """Count an answer to a router; nobody waited for `hidden_s` of what was drafted for it."""
        self._answers.add()
        self._hidden_seconds.add(hidden_s)
        if is_at_once:
            self._answers_ahead.add()

    @property
    def num_answers(self) -> int:
        """Answers so far."""
        return int(self._answers.value)

    @property
    def hidden_s(self) -> float:
        """Drafting time so far that nobody waited for, of answers that were asked for."""
        return self._hidden_seconds.value

    @property
    def batches_s(self) -> float:
        """What all batches took."""
        return self._batch_seconds.sum

    @property
    def num_answers_ahead(self) -> int:
        """Answers so far that were there before the question."""
        return int(self._answers_ahead.value)

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
