"""What a router counts about itself, and the status it makes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from deployments.messages import RouterStatus
from deployments.router.peers import VerifierPeer
from deployments.router.session import Phase, Session


@dataclass(slots=True)
class RouterStats:
    """Sums since the router started. Rounds are those that had a proposal; seconds."""

    num_rounds: int = 0
    round_seconds_sum: float = 0.0
    verify_seconds_sum: float = 0.0
    draft_seconds_sum: float = 0.0

    def add_round(self, round_s: float, verify_s: float, draft_s: float) -> None:
        """Count a round that took `round_s` from verdict to verdict, of which the models worked the other two."""
        self.num_rounds += 1
        self.round_seconds_sum += round_s
        self.verify_seconds_sum += verify_s
        self.draft_seconds_sum += draft_s

    def status(
        self, *, verifiers: Collection[VerifierPeer], num_drafters: int, sessions: Iterable[Session]
    ) -> RouterStatus:
        """The record that ingresses get."""
        phases = [session.phase for session in sessions]
        return RouterStatus(
            num_verifiers=len(verifiers),
            num_drafters=num_drafters,
            num_sessions=len(phases),
            num_waiting=sum(phase is Phase.WAITING for phase in phases) + sum(v.num_waiting for v in verifiers),
            kv_usage=max((verifier.kv_usage for verifier in verifiers), default=0.0),
            num_rounds=self.num_rounds,
            round_seconds_sum=self.round_seconds_sum,
            verify_seconds_sum=self.verify_seconds_sum,
            draft_seconds_sum=self.draft_seconds_sum,
        )
