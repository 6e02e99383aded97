"""The router as an Endpoint: requests come and go, peers come and go, deadlines strike; rounds.py does the rest.

Everything here runs on one event loop, in callbacks of the streams; nothing blocks.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable

from deployments.link import Link, send_or_drop
from deployments.messages import (
    Cancel,
    Costs,
    Failure,
    FailureCode,
    Generate,
    Introduce,
    Load,
    Message,
    Need,
    Open,
    Proposal,
    Refusal,
    RouterStatus,
    SessionId,
    SetFlow,
    Verdict,
    Verify,
    Wait,
)
from deployments.metering import Meter
from deployments.router.peers import Peers, VerifierPeer
from deployments.router.rounds import Rounds, RouterSettings
from deployments.router.session import Phase, Session, SessionChoice
from deployments.router.stats import RouterStats

__all__ = ["RouterService", "RouterSettings"]

logger = logging.getLogger(__name__)

TICK_S = 0.02
STATUS_PERIOD_S = 1.0


class RouterService:
    """An Endpoint for links to ingresses, verifiers and drafters. `instance` is unlike any other router's."""

    def __init__(
        self,
        settings: RouterSettings,
        *,
        instance: int,
        clock: Callable[[], float] = time.perf_counter,
        meter: Meter | None = None,
    ) -> None:
        self._settings = settings
        self._instance = instance
        self._clock = clock
        self._session_ids = itertools.count(1)
        self._sessions: dict[SessionId, Session] = {}
        self._by_request: dict[tuple[str, str], Session] = {}
        self._peers = Peers(instance)
        meter = meter or Meter()
        self._stats = RouterStats(meter)
        meter.before_reading(self._refresh_stats)
        self._rounds = Rounds(settings, self._peers, self._sessions, clock, self._release, self._stats)

    @property
    def num_sessions(self) -> int:
        """Requests that have begun and not ended."""
        return len(self._sessions)

    # -- Endpoint -----------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        """A peer is there: it takes part from now on, a drafter once it has introduced itself."""
        if link.role == "verifier":
            self._peers.verifiers[link.peer] = VerifierPeer(link, self._rounds.lookaheads.planner())
            for session in [s for s in self._sessions.values() if s.phase is Phase.WAITING]:
                self._rounds.open(session)
        elif link.role == "ingress":
            self._peers.ingresses[link.peer] = link
        self._tell_status()

    def link_closed(self, link: Link) -> None:
        """A peer is gone: its sessions move, or end if nobody reads them any more."""
        peers = self._peers
        if link.role == "verifier" and (verifier := peers.verifiers.get(link.peer)) and verifier.link is link:
            del peers.verifiers[link.peer]
            self._rounds.lookaheads.drafters_gone(peers.forget_drafters(link))
            for session_id in sorted(verifier.sessions):
                self._stats.add_epoch("verifier_lost")
                self._rounds.open(self._sessions[session_id])
        elif link.role == "drafter":
            gone = peers.forget_drafters(link)
            self._rounds.lookaheads.drafters_gone(gone)
            for session_id in itertools.chain.from_iterable(gone.values()):
                self._lose_drafter(self._sessions[session_id])
        elif link.role == "ingress" and peers.ingresses.get(link.peer) is link:
            del peers.ingresses[link.peer]
            for session in [s for s in self._sessions.values() if s.ingress is link]:
                self._release(session)
        self._tell_status()

    def received(self, link: Link, message: Message) -> None:
        """Take one message; what it makes possible is sent before this returns."""
        match message:
            case Introduce():
                self._peers.introduce(link, message.kind)
                self._tell_status()
            case Need():
                session = self._sessions.get(message.session)
                if session is not None and session.epoch == message.epoch:
                    self._rounds.on_need(session, message)
            case Proposal():
                self._rounds.on_proposal(message)
            case Verdict():
                if verifier := self._peers.verifiers.get(link.peer):
                    self._rounds.on_verdict(verifier, message)
            case Wait():
                session = self._sessions.get(message.session)
                if session is not None and session.is_verified_by(link.peer, message.epoch):
                    self._rounds.on_wait(self._peers.verifiers[link.peer], session)
            case Load():
                self._peers.told_load(link, message)
            case Costs():
                if verifier := self._peers.verifiers.get(link.peer):
                    self._rounds.lookaheads.on_costs(verifier, message)
                    self._peers.told_costs(link.peer, message)
            case Generate():
                self._on_generate(link, message)
            case Cancel():
                if session := self._by_request.get((link.peer, message.request)):
                    self._release(session)
            case SetFlow():
                self._on_flow(link, message)
            case Refusal():
                self._on_refusal(link, message)
            case _:
                raise ValueError(f"a router does not take {type(message).__name__} from a {link.role}")

    async def run(self) -> None:
        """Watch deadlines and report to the ingresses, until cancelled."""
        next_status_s = self._clock()
        while True:
            await asyncio.sleep(TICK_S)
            self.check_deadlines()
            now_s = self._clock()
            if now_s >= next_status_s:
                next_status_s = now_s + STATUS_PERIOD_S
                self._tell_status()

    def check_deadlines(self) -> None:
        """Act for every session that has waited too long; `run` calls this many times a second."""
        now_s = self._clock()
        for session in [s for s in self._sessions.values() if s.phase is not Phase.READY and s.deadline_s <= now_s]:
            self._on_deadline(session)
        for name, request_class in self._peers.canaries.check(now_s):
            self._bypass(name, request_class)

    def _bypass(self, name: str, request_class: str) -> None:
        """Nothing that this drafter proposes for this class is accepted: others do, until it is tried again."""
        drafter = self._peers.drafters[name]
        logger.warning(
            "drafter %s is bypassed for a while: of what it proposes for %s nothing holds", name, request_class
        )
        self._stats.add_bypass(request_class, drafter.kind)
        for session_id in sorted(one for one, its_class in drafter.sessions.items() if its_class == request_class):
            session = self._sessions[session_id]
            self._peers.leave_drafter(session)
            self._lose_drafter(session)

    # -- requests -----------------------------------------------------------------------------

    def _on_generate(self, link: Link, message: Generate) -> None:
        if earlier := self._by_request.get((link.peer, message.request)):
            self._release(earlier)
        if len(self._sessions) >= self._settings.max_sessions:
            detail = f"this router has its {self._settings.max_sessions} sessions"
            send_or_drop(link, Failure(request=message.request, code="overloaded", detail=detail))
            return
        if not message.tokens or len(message.tokens) >= message.max_context_tokens:
            detail = f"{len(message.tokens)} tokens leave no room in a context of {message.max_context_tokens}"
            send_or_drop(link, Failure(request=message.request, code="invalid", detail=detail))
            return
        epoch = self._peers.next_epoch()
        drafter_name = self._settings.drafter if message.drafter == "auto" else message.drafter
        is_open = drafter_name == "auto" and message.num_speculative_tokens != 0
        session = Session(
            id=(self._instance << 32) | next(self._session_ids),
            request=message,
            ingress=link,
            tokens=list(message.tokens),
            epoch=epoch,
            verify_epoch=epoch,
            drafter_name="none" if drafter_name == "auto" else drafter_name,
            choice=SessionChoice() if is_open else None,
        )
        self._sessions[session.id] = session
        self._by_request[link.peer, message.request] = session
        logger.info("session opens", extra=session.about(ingress=link.peer, num_tokens=len(message.tokens)))
        self._rounds.open(session)

    def _on_flow(self, link: Link, message: SetFlow) -> None:
        session = self._by_request.get((link.peer, message.request))
        if session is None:
            return
        session.is_paused = message.paused
        if session.phase is Phase.READY:
            self._rounds.make_ready(session)
            self._rounds.pump(self._peers.verifiers[session.verifier])

    def _fail(self, session: Session, code: FailureCode, detail: str) -> None:
        logger.warning("session fails", extra=session.about(reason=code, detail=detail))
        send_or_drop(session.ingress, Failure(request=session.request.request, code=code, detail=detail))
        self._release(session)

    def _release(self, session: Session) -> None:
        """Free everything a session holds, here and at its peers."""
        logger.info("session ends", extra=session.about(num_tokens=session.context_len))
        del self._sessions[session.id]
        del self._by_request[session.ingress.peer, session.request.request]
        self._peers.leave_drafter(session)
        self._rounds.leave(session)

    # -- what goes wrong ----------------------------------------------------------------------

    def _lose_drafter(self, session: Session) -> None:
        """The drafter is gone: this round goes ahead without it, the next one with another."""
        self._stats.add_epoch("drafter_lost")
        session.drafter = ""
        self._rounds.attach(session)
        if session.phase is Phase.DRAFTING:
            self._rounds.go_without_proposal(session)

    def _on_deadline(self, session: Session) -> None:
        if session.phase is Phase.WAITING:
            self._fail(session, "unavailable", "no verifier could be reached in time")
        elif session.phase is Phase.DRAFTING:
            self._rounds.on_miss(session)
        elif session.num_resends == 0 and session.outstanding is not None:
            session.num_resends = 1
            self._stats.verify_resends.add()
            logger.info("the verifier is asked again", extra=session.about(peer=session.verifier))
            session.deadline_s = self._clock() + self._settings.verify_timeout_s
            again = session.outstanding
            message = again if isinstance(again, Open) else Verify(items=(again,))
            send_or_drop(self._peers.verifiers[session.verifier].link, message)
        else:
            logger.warning(
                "the verifier does not answer: the session moves", extra=session.about(peer=session.verifier)
            )
            session.num_resends = 0
            self._stats.add_epoch("verifier_silent")
            self._rounds.open(session, avoid=(session.verifier,))

    def _on_refusal(self, link: Link, refusal: Refusal) -> None:
        session = self._sessions.get(refusal.session)
        if session is None or session.verifier != link.peer or refusal.epoch != session.verify_epoch:
            return
        self._stats.add_refusal(refusal.reason)
        if refusal.reason == "invalid":
            self._fail(session, "invalid", refusal.detail)
        elif refusal.reason != "no_capacity":
            self._stats.add_epoch("verifier_refused")
            self._rounds.open(session)
        elif len(self._peers.verifiers) > 1 and session.num_resends == 0:
            session.num_resends = 1
            self._stats.add_epoch("verifier_refused")
            self._rounds.open(session, avoid=(link.peer,))
        else:
            self._fail(session, "overloaded", refusal.detail)

    def _tell_status(self) -> None:
        if not self._peers.ingresses:
            return
        status = RouterStatus(num_verifiers=len(self._peers.verifiers))
        for link in list(self._peers.ingresses.values()):
            send_or_drop(link, status)

    def _refresh_stats(self) -> None:
        self._stats.refresh(self._peers.verifiers.values(), self._peers.drafters.values(), self._sessions.values())
