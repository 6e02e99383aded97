"""The verifier's side of a round: queue what the routers send, step, answer; one loop on one thread.

A step is `plan, run, publish`. It runs inline: while it does, frames wait in the sockets, and all
that came in meanwhile is merged into the next step. Deltas leave before the verdicts they belong
to, since a drafter has more to do than a router, and where every session is drafted for so does all else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from deployments.distributions import KEPT, DistributionStore
from deployments.link import Link, send_or_drop
from deployments.load_telling import LoadTelling
from deployments.logs import about
from deployments.messages import (
    Close,
    Costs,
    Delta,
    DeltaItem,
    Load,
    Message,
    Need,
    Open,
    Refusal,
    RefusalReason,
    SessionId,
    Verdict,
    VerdictItem,
    Verify,
    VerifyItem,
    Wait,
)
from deployments.metering import Meter
from deployments.pacing import Pace
from deployments.timing import StepShape, StepTiming
from deployments.verifier.admission import Admission
from deployments.verifier.batching import Batching, shape_of
from deployments.verifier.engine import Chunk, Outcome, VerifierEngine
from deployments.verifier.scheduler import Pending, StepBudget, plan_step
from deployments.verifier.session import DeltaBatch, Session
from deployments.verifier.stats import VerifierStats

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierSettings:
    """Bounds of a verifier. `prompt_tokens` of a step's tokens are kept for prompts while one waits, `max_lookahead`
    is the longest proposal that is looked at, `max_delta_tokens` the longest catch-up that one message carries.
    `can_split` lets sessions part into halves that take turns.
    """

    max_step_tokens: int = 512
    prompt_tokens: int = 128
    max_step_sessions: int = 128
    max_waiting_sessions: int = 1024
    max_lookahead: int = 16
    max_delta_tokens: int = 1024
    can_split: bool = True
    reuses_prefixes: bool = True

    @property
    def budget(self) -> StepBudget:
        """How much one step may hold."""
        return StepBudget(
            max_step_tokens=self.max_step_tokens,
            max_step_sessions=self.max_step_sessions,
            prompt_tokens=self.prompt_tokens,
        )


class VerifierService:
    """An Endpoint for links from routers and to drafters."""

    def __init__(
        self,
        engine: VerifierEngine,
        settings: VerifierSettings,
        meter: Meter | None = None,
        timings: Sequence[StepTiming] = (),
        store: DistributionStore | None = None,
        pace: Pace[StepShape] | None = None,
    ) -> None:
        self._store = store
        self._pace = pace
        self._engine = engine
        self._settings = settings
        self._budget = settings.budget
        self._costs = Costs(
            timings=tuple(timings),
            max_step_tokens=settings.max_step_tokens,
            can_split=settings.can_split,
            num_prefix_tokens=engine.num_kv_tokens if settings.reuses_prefixes else 0,
        )
        self._batching = Batching(self._budget, timings, can_split=settings.can_split)
        self._sessions: dict[SessionId, Session] = {}
        self._active: dict[SessionId, Session] = {}
        self._drafters: dict[str, Link] = {}
        self._loads = LoadTelling()
        self._work = asyncio.Event()
        self.num_steps = 0
        meter = meter or Meter()
        self._stats = VerifierStats(meter)
        self._admission = Admission(engine, self._stats, reuses_prefixes=settings.reuses_prefixes)
        meter.before_reading(self._refresh_stats)

    @property
    def num_sessions(self) -> int:
        """Sessions that are open or wait for room."""
        return len(self._sessions)

    # -- Endpoint -----------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        """A router, or a drafter that deltas can go to from now on."""
        if link.role == "drafter":
            self._drafters[link.peer] = link
        else:
            send_or_drop(link, self._costs)
            self._loads.joined(link)

    def link_closed(self, link: Link) -> None:
        """A router that is gone takes its sessions along; a drafter that is gone holds nothing any more."""
        if link.role == "drafter":
            if self._drafters.get(link.peer) is link:
                del self._drafters[link.peer]
                for session in self._sessions.values():
                    session.sent_len.pop(link.peer, None)
            return
        self._loads.left(link)
        for session in [s for s in self._sessions.values() if s.link is link]:
            self._close(session)

    def received(self, link: Link, message: Message) -> None:
        """Queue one message for the next step, or answer it at once."""
        match message:
            case Verify():
                for item in message.items:
                    self._on_verify(link, item)
            case Open():
                self._on_open(link, message)
            case Close():
                session = self._sessions.get(message.session)
                if session is not None and session.link is link and message.epoch >= session.epoch:
                    self._close(session)
            case Need():
                self._on_need(link, message)
            case _:
                raise ValueError(f"a verifier does not take {type(message).__name__} from a {link.role}")

    async def run(self) -> None:
        """Step while there is work, until cancelled."""
        while True:
            await self._work.wait()
            self._active.update({session.id: session for session in self._admission.admit()})
            if await self._batching.waits(self._active.values(), self._work):
                continue
            batch = self._batching.select(self._active.values())
            planned = plan_step([self._pending(s) for s in batch], self._budget)
            if not planned:
                self._work.clear()
                self._tell_load(is_idle=True)
                continue
            chunks = self._with_room(planned)
            if not chunks:
                continue
            started_s = time.perf_counter()
            self._stats.add_waits((self._active[chunk.session] for chunk in chunks), started_s)
            outcomes = self._engine.step(chunks)
            if self._pace is not None:
                await self._pace.step_over(shape_of(chunks), started_s)
            step_s = time.perf_counter() - started_s
            self.num_steps += 1
            decided = self._decide(chunks, outcomes)
            shape = self._batching.ran(chunks, started_s * 1e3, step_s * 1e3)
            verdicts = self._verdicts(decided, shape, step_s * 1e3)
            are_awaited = not self._are_drafted_for(decided)
            if are_awaited:
                self._send_verdicts(verdicts)
            self._batching.learn(shape, step_s * 1e3)
            self._tell_load(is_idle=False)
            self._stats.add_step(chunks, step_s)
            if logger.isEnabledFor(logging.DEBUG):
                logger.debug("step", extra=about(step=self.num_steps, sessions=len(chunks), seconds=step_s))
            # The first turn of the loop polls the sockets, the second runs what they brought.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if not are_awaited:
                self._send_verdicts(verdicts)

    # -- what routers ask ---------------------------------------------------------------------

    def _on_open(self, link: Link, message: Open) -> None:
        earlier = self._sessions.get(message.session)
        if earlier is not None:
            if earlier.link is link and earlier.epoch == message.epoch:
                self._repeat(earlier)
                return
            self._close(earlier)
        refusal = self._admission.objection(message, self._settings.max_waiting_sessions)
        if refusal is not None:
            send_or_drop(link, refusal)
            return
        session = Session(
            id=message.session,
            link=link,
            opened=message,
            epoch=message.epoch,
            tokens=list(message.tokens),
            drafter=message.drafter,
            lookahead=message.lookahead,
            early_stop=message.early_stop,
            asked_s=time.perf_counter(),
        )
        self._sessions[session.id] = session
        self._admission.wait(session)
        logger.info("session opens", extra=session.about(router=link.peer, num_tokens=len(message.tokens)))
        self._work.set()

    def _on_verify(self, link: Link, item: VerifyItem) -> None:
        session = self._sessions.get(item.session)
        if session is None or session.link is not link:
            self._refuse(link, item, "unknown_session")
        elif item.epoch < session.epoch:
            logger.debug("session %x: a Verify of epoch %s is stale", item.session, item.epoch)
        elif item.context_len == session.context_len and session.wants_verify and item.epoch == session.epoch:
            self._repeat(session)
        elif item.context_len == session.context_len and not session.is_ended:
            session.take_verify(item, self._engine.vocab_size, self._settings.max_lookahead)
            session.asked_s = time.perf_counter()
            if self._store is not None and KEPT in item.distributions:
                session.distributions = self._store.take(session.id, item.context_len)
            self._batching.came_back(session.id, len(session.proposal))
            if self._admission.has_room(session):
                self._active[session.id] = session
            else:
                self._let_wait(session)
            self._work.set()
        elif session.last_verdict is not None and item.context_len == session.last_verdict.context_len:
            session.epoch = item.epoch
            self._repeat(session)
        else:
            self._refuse(link, item, "out_of_step")

    def _repeat(self, session: Session) -> None:
        """Answer a repeated question with the stored verdict, or with the word that the step is still to come."""
        if session.wants_verify:
            send_or_drop(session.link, Wait(session=session.id, epoch=session.epoch))
        elif session.last_verdict is not None:
            stored = session.last_verdict
            has_go_ahead = stored.has_go_ahead and stored.epoch == session.epoch
            item = msgspec.structs.replace(stored, epoch=session.epoch, has_go_ahead=has_go_ahead)
            send_or_drop(session.link, self._verdict([item], 0.0, StepShape(num_sequences=0, num_tokens=0)))

    def _refuse(self, link: Link, item: VerifyItem, reason: RefusalReason) -> None:
        send_or_drop(link, Refusal(session=item.session, epoch=item.epoch, reason=reason))

    def _close(self, session: Session) -> None:
        logger.info("session closes", extra=session.about(num_tokens=session.context_len))
        del self._sessions[session.id]
        self._active.pop(session.id, None)
        self._batching.forget(session.id)
        self._admission.leave(session)
        self._work.set()  # others may have waited for the room

    # -- steps --------------------------------------------------------------------------------

    def _let_wait(self, session: Session) -> None:
        """Queue a session that has no room; its router shall not take it for a part of the next step."""
        self._admission.wait(session)
        send_or_drop(session.link, Wait(session=session.id, epoch=session.epoch))

    def _with_room(self, planned: Sequence[Chunk]) -> list[Chunk]:
        """What of a step has room in the cache; sessions that make way for it leave it."""
        chunks, preempted = self._admission.fit(planned)
        for session in preempted:
            logger.info("session makes way", extra=session.about(num_tokens=session.context_len))
            if self._active.pop(session.id, None) is not None:
                self._let_wait(session)
        return chunks

    def _pending(self, session: Session) -> Pending:
        return Pending(
            session=session.id,
            computed_len=session.computed_len,
            tokens=session.tokens,
            proposal=session.proposal,
            distributions=session.distributions,
            wants_verify=session.wants_verify,
            scores_tokens=session.scores_prompt,
        )

    def _decide(self, chunks: Sequence[Chunk], outcomes: Sequence[Outcome]) -> list[tuple[Session, bool]]:
        """Write down what the step decided and tell drafters; who got a verdict, and if its drafter may begin."""
        decided: list[tuple[Session, bool]] = []
        deltas: dict[str, DeltaBatch] = {}
        remaining = iter(outcomes)
        for chunk in chunks:
            session = self._active[chunk.session]
            if chunk.is_partial:
                session.computed_len = chunk.start + len(chunk.tokens)
                self._add_delta(session, deltas, is_go_ahead=False)
                continue
            session.decide(next(remaining))
            decided.append((session, self._add_delta(session, deltas, is_go_ahead=True)))
        self._send_deltas(deltas)
        return decided

    def _are_drafted_for(self, decided: Sequence[tuple[Session, bool]]) -> bool:
        """Whether drafters elsewhere are on turn for all of them: then nobody is held up by a verdict's coming late.

        Whom a verdict wakes may take the core that a drafter, told just before, is about to get.
        """
        return all(has_go_ahead and not self._drafters[one.drafter].is_local for one, has_go_ahead in decided)

    def _verdicts(
        self, decided: Sequence[tuple[Session, bool]], shape: StepShape, step_ms: float
    ) -> dict[Link, Verdict]:
        """What routers are to be told of a step, one message each."""
        verdicts: dict[Link, list[VerdictItem]] = {}
        for session, has_go_ahead in decided:
            del self._active[session.id]
            if session.is_ended:
                self._admission.leave(session)
            assert session.last_verdict is not None
            session.last_verdict = item = msgspec.structs.replace(session.last_verdict, has_go_ahead=has_go_ahead)
            self._batching.left(session, session.next_lookahead if has_go_ahead else 0, item.num_accepted + 1)
            verdicts.setdefault(session.link, []).append(item)
        return {link: self._verdict(items, step_ms, shape) for link, items in verdicts.items()}

    @staticmethod
    def _send_verdicts(verdicts: dict[Link, Verdict]) -> None:
        for link, verdict in verdicts.items():
            send_or_drop(link, verdict)

    def _refresh_stats(self) -> None:
        self._stats.refresh(self._admission.num_open, self._admission.num_waiting, self._engine.kv_usage)

    def _tell_load(self, *, is_idle: bool) -> None:
        num_waiting = self._admission.num_waiting
        load = Load(num_sessions=self._admission.num_open + num_waiting, num_waiting=num_waiting)
        self._loads.tell(load, is_idle=is_idle)

    def _verdict(self, items: Sequence[VerdictItem], step_ms: float, shape: StepShape) -> Verdict:
        return Verdict(items=tuple(items), step_ms=step_ms, shape=shape, idle_ms=self._batching.idle_ms)

    # -- what drafters need -------------------------------------------------------------------

    def _add_delta(self, session: Session, deltas: dict[str, DeltaBatch], *, is_go_ahead: bool) -> bool:
        """Add what the session's drafter lacks, at most one slice of it; whether that lets it begin to draft."""
        if session.drafter not in self._drafters or session.next_lookahead == 0:
            return False
        batch = deltas.setdefault(session.drafter, DeltaBatch())
        have_len = session.sent_len.get(session.drafter, 0)
        stop = min(session.computed_len, have_len + self._settings.max_delta_tokens - batch.num_entries)
        is_complete = is_go_ahead and stop == session.computed_len
        if stop <= have_len and not is_complete:  # it may have more, while a session is computed again
            return False
        session.sent_len[session.drafter] = stop
        batch.num_entries += stop - have_len
        batch.items.append(
            DeltaItem(
                session=session.id,
                epoch=session.epoch,
                context_len=stop + 1,
                last_token=session.tokens[stop],
                lookahead=session.next_lookahead if is_complete else 0,
                ranges=self._engine.shadow(session.id, have_len, stop),
                hidden=self._engine.hidden(session.id) if is_complete else b"",
                tokens=tuple(session.tokens[have_len:stop]) if session.opened.params.needs_tokens else (),
                early_stop=session.early_stop if is_complete else None,
            )
        )
        return is_complete

    def _on_need(self, link: Link, need: Need) -> None:
        """A drafter missed something: send it again, with the go-ahead if the round still waits for it."""
        session = self._sessions.get(need.session)
        if session is None or session.epoch != need.epoch or session.drafter != link.peer:
            return
        session.sent_len[link.peer] = max(0, min(need.have_len, session.context_len - 1))
        # Without room it has nothing to send from: the round goes ahead without a proposal.
        if session.wants_verify or session.last_verdict is None or not self._admission.has_room(session):
            return
        deltas: dict[str, DeltaBatch] = {}
        self._add_delta(session, deltas, is_go_ahead=True)
        self._send_deltas(deltas)

    def _send_deltas(self, deltas: dict[str, DeltaBatch]) -> None:
        for peer, batch in deltas.items():
            if batch.items:
                send_or_drop(self._drafters[peer], Delta(items=tuple(batch.items)))
