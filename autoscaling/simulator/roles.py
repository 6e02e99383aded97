"""A verifier and a drafter in virtual time: the queues of the served ones, with tables for engines."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autoscaling.simulator.events import EventQueue
from deployments.messages import EarlyStop, SessionId
from deployments.policy.draft_waiting import DraftPolicy
from deployments.policy.early_stop import Drafting
from deployments.policy.hardware import DraftTable, Pair, timings
from deployments.policy.stepping import Ready, StepPolicy
from deployments.timing import StepShape

PROMPT_TOKENS = 128


@dataclass(slots=True, kw_only=True)
class Asked:
    """A Verify of one session: its context, proposal, and the lookahead of its next round; it ends with `num_left`
    tokens more.
    """

    session: SessionId
    context_len: int
    num_drafted: int
    lookahead: int
    num_left: int
    survival: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    num_held: Callable[[int], int] = lambda lookahead: 0
    num_proposed: int = 0
    early_stop: EarlyStop | None = None


@dataclass(slots=True, kw_only=True)
class Decided:
    """One session's outcome: of `num_drafted` tokens that were looked at, the first `num_held` hold."""

    session: SessionId
    num_drafted: int
    num_held: int
    is_next_held: bool | None
    lookahead: int
    early_stop: EarlyStop | None


@dataclass(slots=True, kw_only=True)
class StepReport:
    """A Verdict: outcomes, and what a router learns from the step."""

    items: list[Decided]
    shape: StepShape
    step_ms: float
    idle_ms: float

    @property
    def is_bare(self) -> bool:
        """Whether no proposal was in it."""
        return not any(item.num_drafted for item in self.items)


class Proposed(NamedTuple):
    """What a session gets of a batch: how sure the drafter was of each token, () where it does not say; how many; and
    the batch's time, steps, how many of those were asked for, and tokens.
    """

    confidences: tuple[float, ...]
    num_tokens: int
    batch_ms: float
    batch_steps: int
    batch_asked: int
    batch_tokens: int


class GoAhead(NamedTuple):
    """What a drafter is asked for: `confidence` says of a token how sure it will be; `done` is called at the end."""

    lookahead: int
    early_stop: EarlyStop | None
    confidence: Callable[[int], float | None]
    done: Callable[[Proposed], None]


class Device:
    """What one process computes on: one thing at a time. Colocated roles share one."""

    def __init__(self, events: EventQueue) -> None:
        self._events = events
        self._wakes: list[Callable[[], None]] = []
        self.is_busy = False

    def on_free(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever something has ended; who asked first is called first."""
        self._wakes.append(wake)

    def compute(self, duration_ms: float, end: Callable[[], None]) -> None:
        """Be busy for so long, then call `end`, then whoever waits."""
        assert not self.is_busy
        self.is_busy = True

        def over() -> None:
            self.is_busy = False
            end()
            # After what has just ended has handed on: a go-ahead to the drafter beside it, say.
            self._events.after(0.0, self._wake_all)

        self._events.after(duration_ms, over)

    def _wake_all(self) -> None:
        for wake in self._wakes:
            wake()


class Drafter:
    """Drafts for all sessions that have their go-ahead when a batch starts, and waits where the policy says so."""

    def __init__(
        self, events: EventQueue, table: DraftTable, max_batch_sessions: int = 256, device: Device | None = None
    ) -> None:
        self._events = events
        self._table = table
        self._device = device or Device(events)
        self._device.on_free(self._wake)
        self._max = max_batch_sessions
        self._ready: dict[SessionId, GoAhead] = {}
        self._policy = DraftPolicy()
        self._waiting_since_ms: float | None = None
        self._turn = 0
        self.busy_ms = 0.0

    def go_ahead(self, session: SessionId, asked: GoAhead) -> None:
        """Draft for a session, with whoever else is ready when a batch begins."""
        self._policy.came_back(session, self._events.now_ms)
        self._ready[session] = asked
        self._events.after(0.0, self._wake)

    def forget(self, session: SessionId) -> None:
        """The session wants no draft, or has ended."""
        self._policy.forget(session)

    def _wake(self) -> None:
        if not self._device.is_busy:
            self._turn += 1
            self._consider(self._turn)

    def _consider(self, turn: int) -> None:
        if self._device.is_busy or turn != self._turn or not self._ready:
            return
        now_ms = self._events.now_ms
        self._waiting_since_ms = now_ms if self._waiting_since_ms is None else self._waiting_since_ms
        ready = [asked.lookahead for asked in self._ready.values()]
        until_ms = self._policy.wait_until_ms(ready, self._waiting_since_ms, now_ms)
        if until_ms is not None and until_ms > now_ms:
            self._events.after(until_ms - now_ms, lambda: self._consider(turn))
            return
        self._draft()

    def _draft(self) -> None:
        self._waiting_since_ms = None
        batch = {session: self._ready.pop(session) for session in list(self._ready)[: self._max]}
        lookaheads = [asked.lookahead for asked in batch.values()]
        proposals = _drafted(list(batch.values()))
        lengths = [max(1, len(confidences)) for confidences in proposals]
        draft_ms = self._table.predict(lengths)
        self.busy_ms += draft_ms

        def end() -> None:
            self._policy.left(list(batch), lookaheads, lengths, draft_ms, self._events.now_ms)
            for asked, confidences in zip(batch.values(), proposals, strict=True):
                known = tuple(one for one in confidences if one is not None)
                asked.done(Proposed(known, len(confidences), draft_ms, max(lengths), max(lookaheads), sum(lengths)))

        self._device.compute(draft_ms, end)


def _drafted(asked: Sequence[GoAhead]) -> list[list[float | None]]:
    """The confidences in what is drafted for each session of a batch, token by token; None where they are not known."""
    early_stops = [None if one.confidence(0) is None else one.early_stop for one in asked]
    drafting = Drafting([one.lookahead for one in asked], early_stops)
    proposals: list[list[float | None]] = [[] for _ in asked]
    while drafting.rows:
        for row in drafting.rows:
            proposals[row].append(asked[row].confidence(len(proposals[row])))
        drafting.drafted([1.0 if (last := proposals[row][-1]) is None else last for row in drafting.rows])
    return proposals


class Verifier:
    """Steps for all sessions that are ready, and waits where the policy says so.

    A drafter on the same `device` has its go-ahead without a hop, and the first word when a step has ended.
    """

    def __init__(
        self, events: EventQueue, pair: Pair, *, jitter: float, seed: int, device: Device | None = None
    ) -> None:
        self._events = events
        self._device = device or Device(events)
        self._device.on_free(self._wake)
        self._go_ahead_ms = pair.hop_ms if device is None else 0.0
        self._pair = pair
        self._jitter = jitter
        self._random = random.Random(seed)
        self.timings = timings(pair)
        self.max_step_tokens = pair.max_step_tokens
        self.policy = StepPolicy(self.timings)
        self._ready: dict[SessionId, Asked] = {}
        self._prompts: dict[SessionId, int] = {}
        self._free_since_ms = 0.0
        self._waiting_since_ms: float | None = None
        self._turn = 0
        self.report: Callable[[StepReport], None] = lambda report: None
        self.go_ahead: Callable[[Decided], None] = lambda decided: None
        self.num_steps = 0
        self.busy_ms = 0.0

    def verify(self, asked: Asked) -> None:
        """Queue one session for the next step."""
        self.policy.came_back(asked.session, asked.num_drafted, self._events.now_ms)
        self._ready[asked.session] = asked
        if asked.num_prompt_tokens:
            self._prompts[asked.session] = asked.num_prompt_tokens
        self._wake()

    def close(self, session: SessionId) -> None:
        """Forget a session."""
        self.policy.forget(session)

    def _wake(self) -> None:
        if not self._device.is_busy:
            self._turn += 1
            turn = self._turn
            self._events.after(0.0, lambda: self._consider(turn))

    def _consider(self, turn: int) -> None:
        if self._device.is_busy or turn != self._turn or not self._ready:
            return
        now_ms = self._events.now_ms
        ready = [
            Ready(
                asked.session,
                asked.context_len,
                asked.num_drafted,
                asked.survival,
                min(self._prompts.get(asked.session, 0), PROMPT_TOKENS),
            )
            for asked in self._ready.values()
        ]
        self._waiting_since_ms = now_ms if self._waiting_since_ms is None else self._waiting_since_ms
        until_ms = self.policy.wait_until_ms(ready, self._waiting_since_ms, now_ms)
        if until_ms is not None and until_ms > now_ms:
            self._events.after(until_ms - now_ms, lambda: self._consider(turn))
            return
        self._step(ready[: self.policy.num_to_step(ready)])

    def _step(self, ready: list[Ready]) -> None:
        now_ms = self._events.now_ms
        idle_ms = now_ms - self._free_since_ms
        self._waiting_since_ms = None
        prompts = [one.session for one in ready if one.num_prompt_tokens]
        budget = self._pair.max_step_tokens - (PROMPT_TOKENS if prompts else 0)
        kept = self.policy.trim(ready, budget, idle_ms)
        lengths = {one.session: length for one, length in zip(ready, kept, strict=True) if not one.num_prompt_tokens}
        left = self._pair.max_step_tokens - len(lengths) - sum(lengths.values())
        num_prompt_tokens = 0
        for session in prompts:
            chunk = min(left, self._prompts[session])
            left, num_prompt_tokens = left - chunk, num_prompt_tokens + chunk
            self._prompts[session] -= chunk
            if not self._prompts[session]:
                del self._prompts[session]
                lengths[session] = 0
        asked = [self._ready.pop(session) for session in lengths]
        shape = StepShape(
            num_sequences=len(asked),
            num_tokens=num_prompt_tokens + sum(1 + lengths[one.session] for one in asked if not one.num_prompt_tokens),
            num_prompt_tokens=num_prompt_tokens,
            num_context_tokens=sum(one.context_len for one in asked),
        )
        step_ms = self._pair.verify.predict(shape) * (1.0 + abs(self._random.gauss(0.0, self._jitter)))
        self.num_steps += 1
        self.busy_ms += step_ms
        self._device.compute(step_ms, lambda: self._publish(asked, lengths, shape, step_ms, idle_ms))

    def _publish(
        self, asked: list[Asked], lengths: dict[SessionId, int], shape: StepShape, step_ms: float, idle_ms: float
    ) -> None:
        now_ms = self._events.now_ms
        self.policy.costs.observe(shape, step_ms)
        items = []
        for one in asked:
            looked_at = lengths[one.session]
            held = one.num_held(looked_at)
            was_cut = held == looked_at < max(one.num_drafted, one.num_proposed)
            is_next_held = one.num_held(looked_at + 1) > looked_at if was_cut else None
            decided = Decided(
                session=one.session, num_drafted=looked_at, num_held=held, is_next_held=is_next_held,
                lookahead=one.lookahead, early_stop=one.early_stop,
            )  # fmt: skip
            items.append(decided)
            if held + 1 >= one.num_left:  # it has ended
                self.policy.forget(one.session)
                continue
            self.policy.left(one.session, one.lookahead, held + 1, now_ms)
            if one.lookahead:
                self._events.after(self._go_ahead_ms, lambda decided=decided: self.go_ahead(decided))  # type: ignore[misc]
        report = StepReport(items=items, shape=shape, step_ms=step_ms, idle_ms=idle_ms)
        self._events.after(self._pair.hop_ms, lambda: self.report(report))
        self._free_since_ms = now_ms
