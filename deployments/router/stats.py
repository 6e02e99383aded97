"""What a router counts about itself, and the status it makes of it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable
from typing import get_args

from deployments import measures
from deployments.messages import DrafterKind, RefusalReason, RequestClass
from deployments.metering import Meter
from deployments.router.peers import DrafterPeer, VerifierPeer
from deployments.router.session import Phase, Session


class RouterStats:
    """The router's instruments. Rounds are those that had a proposal; seconds."""

    def __init__(self, meter: Meter) -> None:
        self._round_seconds = meter.histogram(measures.ROUND_SECONDS).cell()
        self._round_verify_seconds = meter.counter(measures.ROUND_VERIFY_SECONDS).cell()
        self._round_draft_seconds = meter.counter(measures.ROUND_DRAFT_SECONDS).cell()
        self.exposed_draft_seconds = meter.histogram(measures.EXPOSED_DRAFT_SECONDS).cell()
        self._lookahead = meter.histogram(measures.LOOKAHEAD)
        self._lookahead.prepare(get_args(RequestClass))
        self.proposal_misses = meter.counter(measures.PROPOSAL_MISSES).cell()
        self._drafter_bypasses = meter.counter(measures.DRAFTER_BYPASSES)
        for pair in itertools.product((*get_args(RequestClass), measures.UNKNOWN_CLASS), get_args(DrafterKind)):
            self._drafter_bypasses.cell(*pair)
        self._prediction_error = meter.gauge(measures.STEP_PREDICTION_ERROR).cell()
        self.verify_resends = meter.counter(measures.VERIFY_RESENDS).cell()
        self._epoch_changes = meter.counter(measures.EPOCH_CHANGES)
        self._epoch_changes.prepare(get_args(measures.EpochReason))
        self._refusals = meter.counter(measures.REFUSALS)
        self._refusals.prepare(get_args(RefusalReason))
        self._num_verifiers = meter.gauge(measures.NUM_VERIFIERS).cell()
        self._num_drafters = meter.gauge(measures.NUM_DRAFTERS).cell()
        self._sessions = meter.gauge(measures.ROUTER_SESSIONS)

    def add_round(self, round_s: float, verify_s: float, draft_s: float) -> None:
        """Count a round that took `round_s` from verdict to verdict, of which the models worked the other two."""
        self._round_seconds.observe(round_s)
        self._round_verify_seconds.add(verify_s)
        self._round_draft_seconds.add(draft_s)

    def add_lookahead(self, request_class: RequestClass | None, lookahead: int) -> None:
        """Count how many tokens were drafted for a round."""
        self._lookahead.cell(request_class or measures.UNKNOWN_CLASS).observe(lookahead)

    def add_bypass(self, request_class: str, drafter: DrafterKind) -> None:
        """Count a drafter that is left aside for a class of requests."""
        self._drafter_bypasses.cell(request_class, drafter).add()

    def add_epoch(self, reason: measures.EpochReason) -> None:
        """Count a session that was placed anew."""
        self._epoch_changes.cell(reason).add()

    def add_refusal(self, reason: RefusalReason) -> None:
        """Count a session that a verifier refused."""
        self._refusals.cell(reason).add()

    def refresh(
        self, verifiers: Collection[VerifierPeer], drafters: Collection[DrafterPeer], sessions: Iterable[Session]
    ) -> None:
        """Set the gauges."""
        self._num_verifiers.set(len(verifiers))
        self._prediction_error.set(max((one.planner.costs.error.median for one in verifiers), default=0.0))
        self._num_drafters.set(len(drafters))
        phases = Counter(session.phase for session in sessions)
        for phase in Phase:
            self._sessions.cell(phase.name.lower()).set(phases[phase])
