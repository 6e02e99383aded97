"""What the router keeps about each verifier and drafter it is linked to."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.link import Link
from deployments.messages import SessionId

MAX_STEPS_AT_VERIFIER = 2
"""One step that runs and one queued behind it, so that the verifier never idles; more would only freeze the batch early."""


@dataclass(slots=True)
class DrafterPeer:
    """A drafter and the sessions that are attached to it."""

    link: Link
    sessions: set[SessionId] = field(default_factory=set)


@dataclass(slots=True)
class VerifierPeer:
    """A verifier, the sessions placed on it, and what it has been asked for and not answered yet."""

    link: Link
    sessions: set[SessionId] = field(default_factory=set)
    ready: dict[SessionId, None] = field(default_factory=dict)
    steps: list[set[SessionId]] = field(default_factory=list)
    kv_usage: float = 0.0
    num_waiting: int = 0

    @property
    def has_room(self) -> bool:
        """Whether one more Verify may be queued at the verifier."""
        return len(self.steps) < MAX_STEPS_AT_VERIFIER

    def settle(self, session: SessionId) -> None:
        """The verifier owes nothing for this session any more; a step that owes nothing is over."""
        for step in self.steps:
            step.discard(session)
        self.steps = [step for step in self.steps if step]

    def forget(self, session: SessionId) -> None:
        """The session has ended or moved away."""
        self.sessions.discard(session)
        self.ready.pop(session, None)
        self.settle(session)
