"""Sessions of several tenants in one queue: each tenant gets as much of the steps as the others while it has any."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from deployments.messages import SessionId
from deployments.policy.fairness import FairTurns
from deployments.policy.salts import tenant_in
from deployments.verifier.engine import Chunk
from deployments.verifier.scheduler import StepBudget
from deployments.verifier.session import Session


class Merging:
    """Verifications and prompts take turns apart, as a step has a share for either.

    A step takes from the front of the order what fits, so this says who waits where not all of it does. Routers need
    no turns of their own: a tenant's sessions keep the order in which they became ready, whoever sent them.
    """

    def __init__(self, budget: StepBudget) -> None:
        self._budget = budget
        self._turns = {is_prompt: FairTurns() for is_prompt in (False, True)}
        self._queued: dict[SessionId, tuple[bool, str]] = {}

    def order(self, active: Collection[Session]) -> list[Session]:
        """The sessions that may take part in the next step. Where a prompt stood, a prompt stands."""
        self._queued.clear()
        ordered = list(active)
        if len({tenant_in(session.opened.salt) for session in ordered}) < 2:
            return ordered
        for is_prompt, turns in self._turns.items():
            slots = [slot for slot, one in enumerate(ordered) if is_prompt == _reads_prompt(one)]
            queued = [ordered[slot] for slot in slots]
            tenants = [tenant_in(session.opened.salt) for session in queued]
            places = turns.order(tenants, [self._num_tokens(session) for session in queued])
            for slot, place in zip(slots, places, strict=True):
                ordered[slot] = queued[place]
                self._queued[queued[place].id] = (is_prompt, tenants[place])
        return ordered

    def ran(self, chunks: Sequence[Chunk]) -> None:
        """A step has run with these. What a tenant had while it was alone is counted against nobody."""
        for chunk in chunks:
            if (queued := self._queued.get(chunk.session)) is not None:
                is_prompt, tenant = queued
                self._turns[is_prompt].served(tenant, len(chunk.tokens))
        self._queued.clear()

    def _num_tokens(self, session: Session) -> int:
        """What the session adds to a step at most."""
        num_missing = session.context_len - session.computed_len
        return min(num_missing, self._budget.max_step_tokens) + len(session.proposal)


def _reads_prompt(session: Session) -> bool:
    return session.context_len - session.computed_len > 1
