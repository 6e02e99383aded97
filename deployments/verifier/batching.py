"""The verifier's side of the step policy: what it needs to know of sessions and steps, on the verifier's clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

from deployments.messages import SessionId
from deployments.policy.stepping import Ready, StepPolicy
from deployments.timing import StepShape, StepTiming
from deployments.verifier.engine import Chunk
from deployments.verifier.merging import Merging
from deployments.verifier.scheduler import StepBudget
from deployments.verifier.session import Session
from deployments.waits import wait_for_more


class Batching:
    """Decides whether a step waits for proposals under way, and how much of each proposal it looks at."""

    def __init__(self, budget: StepBudget, timings: Sequence[StepTiming], *, can_split: bool = True) -> None:
        self._policy = StepPolicy(timings, can_split=can_split)
        self._budget = budget
        self._merging = Merging(budget)
        self._free_since_ms = _now_ms()
        self._waiting_since_ms: float | None = None
        self._deaf_since_ms: float | None = None
        self.idle_ms = 0.0

    @property
    def policy(self) -> StepPolicy:
        """What was learnt."""
        return self._policy

    async def waits(self, active: Collection[Session], arrived: asyncio.Event) -> bool:
        """Wait a little for what is about to arrive, if that pays; whether anything was waited for."""
        now_ms = _now_ms()
        self._deaf_since_ms = None
        if self._waiting_since_ms is None:
            self._waiting_since_ms = now_ms
        until_ms = self._policy.wait_until_ms(self._ready(active), self._waiting_since_ms, now_ms)
        if until_ms is None or until_ms <= now_ms:
            return False
        await wait_for_more(arrived, until_ms - now_ms)
        return True

    def select(self, active: Collection[Session]) -> list[Session]:
        """The sessions that the next step is planned from, by turns, their proposals cut to what is worth its place.

        No text or, under rejection sampling, distribution of texts changes by that: there nothing is known of how
        likely the drawn tokens were.
        """
        sessions = self._merging.order(active)
        ready = self._ready(sessions)
        num = self._policy.num_to_step(ready)
        if num < len(ready):
            chosen = {one.session for one in ready[:num]}
            ready, sessions = ready[:num], [session for session in sessions if session.id in chosen]
        if any(one.num_drafted for one in ready):
            has_prompt = any(one.num_prompt_tokens for one in ready)
            max_tokens = self._budget.max_step_tokens - (self._budget.prompt_tokens if has_prompt else 0)
            lengths = self._policy.trim(ready, max_tokens, _now_ms() - self._free_since_ms)
            kept = {
                one.session: length for one, length in zip(ready, lengths, strict=True) if not one.num_prompt_tokens
            }
            for session in sessions:
                if session.id in kept:
                    session.shorten(kept[session.id])
        return sessions

    def ran(self, chunks: Sequence[Chunk], started_ms: float, step_ms: float) -> StepShape:
        """A step has run; its shape. What was sent meanwhile is received from now on until the next `waits`."""
        self.idle_ms = max(0.0, started_ms - self._free_since_ms)
        self._deaf_since_ms = started_ms
        self._free_since_ms, self._waiting_since_ms = started_ms + step_ms, None
        self._merging.ran(chunks)
        return shape_of(chunks)

    def learn(self, shape: StepShape, step_ms: float) -> None:
        """Take what a step cost, once its verdicts are out: nobody has to wait for that."""
        self._policy.costs.observe(shape, step_ms)

    def left(self, session: Session, lookahead: int, num_committed: int) -> None:
        """The session's verdict goes out; it comes back with up to `lookahead` drafted tokens, or not at all."""
        if session.is_ended:
            self._policy.forget(session.id)
        else:
            self._policy.left(session.id, lookahead, num_committed, _now_ms())

    def came_back(self, session: SessionId, num_drafted: int) -> None:
        """The session's next Verify is here."""
        self._policy.came_back(session, num_drafted, _now_ms(), self._deaf_since_ms)

    def forget(self, session: SessionId) -> None:
        """The session is closed."""
        self._policy.forget(session)

    def _ready(self, active: Collection[Session]) -> list[Ready]:
        ready = []
        for session in active:
            num_missing = session.context_len - session.computed_len
            if num_missing == 1 and session.wants_verify:
                ready.append(Ready(session.id, session.context_len, len(session.proposal), session.survival))
            elif num_missing > 1:
                num_prompt_tokens = min(num_missing, self._budget.prompt_tokens)
                ready.append(Ready(session.id, session.computed_len, 0, (), num_prompt_tokens))
        return ready


def shape_of(chunks: Sequence[Chunk]) -> StepShape:
    """What the cost model sees of a step."""
    num_prompt_tokens = sum(len(chunk.tokens) - (0 if chunk.is_partial else 1 + chunk.num_drafted) for chunk in chunks)
    return StepShape(
        num_sequences=len(chunks),
        num_tokens=sum(len(chunk.tokens) for chunk in chunks),
        num_prompt_tokens=num_prompt_tokens,
        num_context_tokens=sum(chunk.start + len(chunk.tokens) for chunk in chunks),
    )


def _now_ms() -> float:
    return time.perf_counter() * 1e3
