"""What the policy sees: every role's replicas, and what they have told about themselves."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deployments.policy.signals import DrafterSignals, IngressSignals, RouterSignals, VerifierSignals


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas of one deployment: how many it is to have, and how many of these run."""

    target: int
    running: int

    @property
    def is_starting(self) -> bool:
        """Whether some are still to come."""
        return self.running < self.target


class Verifiers(Group, frozen=True, kw_only=True):
    """The verifiers; those that have just started have not told anything yet."""

    signals: tuple[VerifierSignals, ...] = ()

    @property
    def fullest(self) -> float:
        """The sessions of the verifier that has the most, those that wait for room included."""
        return max((one.sessions + one.waiting for one in self.signals), default=0.0)

    @property
    def step_ms(self) -> float:
        """The mean step of those that step; 0 if nobody does."""
        steps = [one.step_ms for one in self.signals if one.step_ms > 0.0]
        return sum(steps) / len(steps) if steps else 0.0


class Drafters(Group, frozen=True, kw_only=True):
    """The drafters of one kind."""

    signals: tuple[DrafterSignals, ...] = ()

    @property
    def queue_ms(self) -> float:
        """The mean wait at the drafter where sessions wait longest."""
        return max((one.queue_ms for one in self.signals), default=0.0)

    @property
    def shared_queue_ms(self) -> float:
        """The mean wait to expect where two verifiers share a drafter: the rest of the other's batch."""
        return max((one.busy_share * one.batch_ms / 2 for one in self.signals), default=0.0)


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `drafters` are by deployment."""

    verifiers: Verifiers
    drafters: Mapping[str, Drafters] = {}
    routers: tuple[RouterSignals, ...] = ()
    ingresses: tuple[IngressSignals, ...] = ()

    @property
    def num_sessions(self) -> float:
        """What verifiers have, or will have once it is placed: whichever role knows of most."""
        placed = sum(one.sessions + one.waiting for one in self.verifiers.signals)
        return max(placed, sum(one.sessions for one in self.routers), sum(one.requests for one in self.ingresses))

    @property
    def kv_usage(self) -> float:
        """The caches in use, added up: 1.5 is one and a half of them."""
        return sum(one.kv_usage for one in self.verifiers.signals)
