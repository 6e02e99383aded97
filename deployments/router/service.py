"""The router's side of a round: Generate -> place -> (Verdict -> Commit -> Proposal -> Verify)* -> Close.

Everything here runs on one event loop, in callbacks of the streams; nothing blocks. One Verify per
verifier and step and one Commits per ingress and step carry all sessions.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from deployments.link import Link, LinkClosed
from deployments.messages import (
    Attach,
    Cancel,
    Close,
    Commit,
    Commits,
    Detach,
    Epoch,
    Failure,
    Generate,
    Message,
    Open,
    Proposal,
    Refusal,
    SessionId,
    SetFlow,
    Verdict,
    VerdictItem,
    Verify,
    VerifyItem,
)
from deployments.policy import lookahead as lookahead_policy
from deployments.policy.limits import room_for_proposal
from deployments.policy.placement import least_loaded
from deployments.router.peers import DrafterPeer, VerifierPeer
from deployments.router.session import Phase, Session
from deployments.router.stats import RouterStats

logger = logging.getLogger(__name__)

TICK_S = 0.02
STATUS_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """Bounds and deadlines of a router; seconds and tokens."""

    max_sessions: int = 256
    num_speculative_tokens: int = 4
    max_speculative_tokens: int = 16
    proposal_timeout_s: float = 1.0
    verify_timeout_s: float = 30.0
    placement_timeout_s: float = 30.0


class RouterService:
    """An Endpoint for links to ingresses, verifiers and drafters."""

    def __init__(
        self, settings: RouterSettings, *, instance: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._settings = settings
        self._instance = instance
        self._clock = clock
        self._epochs = itertools.count(1)
        self._session_ids = itertools.count(1)
        self._sessions: dict[SessionId, Session] = {}
        self._by_request: dict[tuple[str, str], Session] = {}
        self._verifiers: dict[str, VerifierPeer] = {}
        self._drafters: dict[str, DrafterPeer] = {}
        self._ingresses: dict[str, Link] = {}
        self._commits: dict[str, list[Commit]] = {}
        self.stats = RouterStats()

    @property
    def num_sessions(self) -> int:
        """Requests that have begun and not ended."""
        return len(self._sessions)

    # -- Endpoint -----------------------------------------------------------------------------

    def link_opened(self, link: Link) -> None:
        """A peer is there: it takes part from now on."""
        if link.role == "verifier":
            self._verifiers[link.peer] = VerifierPeer(link)
            for session in [s for s in self._sessions.values() if s.phase is Phase.WAITING]:
                self._place(session)
        elif link.role == "drafter":
            self._drafters[link.peer] = DrafterPeer(link)
        elif link.role == "ingress":
            self._ingresses[link.peer] = link
        self._tell_status()

    def link_closed(self, link: Link) -> None:
        """A peer is gone: its sessions move, or end if nobody reads them any more."""
        if link.role == "verifier" and (verifier := self._verifiers.get(link.peer)) and verifier.link is link:
            del self._verifiers[link.peer]
            for session_id in sorted(verifier.sessions):
                self._place(self._sessions[session_id])
        elif link.role == "drafter" and (drafter := self._drafters.get(link.peer)) and drafter.link is link:
            del self._drafters[link.peer]
            for session_id in sorted(drafter.sessions):
                self._lose_drafter(self._sessions[session_id])
        elif link.role == "ingress" and self._ingresses.get(link.peer) is link:
            del self._ingresses[link.peer]
            for session in [s for s in self._sessions.values() if s.ingress is link]:
                self._release(session)
        self._tell_status()

    def received(self, link: Link, message: Message) -> None:
        """Take one message; what it makes possible is sent before this returns."""
        match message:
            case Proposal():
                self._on_proposal(message)
            case Verdict():
                self._on_verdict(link, message)
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

    # -- requests -----------------------------------------------------------------------------

    def _on_generate(self, link: Link, message: Generate) -> None:
        if earlier := self._by_request.get((link.peer, message.request)):
            self._release(earlier)
        if len(self._sessions) >= self._settings.max_sessions:
            detail = f"this router has its {self._settings.max_sessions} sessions"
            self._send(link, Failure(request=message.request, code="overloaded", detail=detail))
            return
        if not message.tokens or len(message.tokens) >= message.max_context_tokens:
            detail = f"{len(message.tokens)} tokens leave no room in a context of {message.max_context_tokens}"
            self._send(link, Failure(request=message.request, code="invalid", detail=detail))
            return
        epoch = self._next_epoch()
        session = Session(
            id=(self._instance << 32) | next(self._session_ids),
            request=message,
            ingress=link,
            tokens=list(message.tokens),
            epoch=epoch,
            verify_epoch=epoch,
        )
        self._sessions[session.id] = session
        self._by_request[link.peer, message.request] = session
        self._place(session)

    def _on_flow(self, link: Link, message: SetFlow) -> None:
        session = self._by_request.get((link.peer, message.request))
        if session is None:
            return
        session.is_paused = message.paused
        if session.phase is Phase.READY:
            self._make_ready(session)
            self._pump(self._verifiers[session.verifier])

    def _fail(self, session: Session, code: str, detail: str) -> None:
        failure_code = "overloaded" if code == "overloaded" else "invalid" if code == "invalid" else "unavailable"
        self._send(session.ingress, Failure(request=session.request.request, code=failure_code, detail=detail))
        self._release(session)

    def _release(self, session: Session) -> None:
        """Free everything a session holds, here and at its peers."""
        del self._sessions[session.id]
        del self._by_request[session.ingress.peer, session.request.request]
        self._leave_drafter(session)
        self._leave_verifier(session)

    # -- placement ----------------------------------------------------------------------------

    def _place(self, session: Session, avoid: tuple[str, ...] = ()) -> None:
        """Put a session on a verifier, from its committed tokens; with none there it waits for one."""
        self._leave_verifier(session)
        session.proposal, session.held = (), None
        name = least_loaded({peer: len(verifier.sessions) for peer, verifier in self._verifiers.items()}, avoid)
        if name is None:
            if session.phase is not Phase.WAITING or session.deadline_s == 0.0:
                session.phase = Phase.WAITING
                session.deadline_s = self._clock() + self._settings.placement_timeout_s
            return
        session.verifier = name
        self._verifiers[name].sessions.add(session.id)
        self._change_drafter(session, keep=True)
        session.outstanding = Open(
            session=session.id,
            epoch=session.epoch,
            tokens=tuple(session.tokens),
            max_context_tokens=session.request.max_context_tokens,
            params=session.request.params,
            stop_token_ids=session.request.stop_token_ids,
            drafter=session.drafter,
            lookahead=self._ask_lookahead(session),
        )
        session.round_started_s = 0.0
        self._await_verdict(session)
        self._send(self._verifiers[name].link, session.outstanding)

    def _leave_verifier(self, session: Session) -> None:
        verifier = self._verifiers.get(session.verifier)
        if verifier is not None and session.id in verifier.sessions:
            verifier.forget(session.id)
            self._send(verifier.link, Close(session=session.id, epoch=session.epoch))
            self._pump(verifier)
        session.verifier = ""

    def _leave_drafter(self, session: Session) -> None:
        drafter = self._drafters.get(session.drafter)
        if drafter is not None:
            drafter.sessions.discard(session.id)
            self._send(drafter.link, Detach(session=session.id, epoch=session.epoch))
        session.drafter = ""

    def _change_drafter(self, session: Session, *, keep: bool = False) -> None:
        """Attach the session to a drafter (the one it has, with `keep`) under a new epoch."""
        kept = session.drafter if keep and session.drafter in self._drafters else ""
        if not kept:
            self._leave_drafter(session)
        session.epoch = self._next_epoch()
        session.held = None
        if not session.wants_drafter:
            return
        name = kept or least_loaded({peer: len(drafter.sessions) for peer, drafter in self._drafters.items()})
        if name is None:
            return
        session.drafter = name
        self._drafters[name].sessions.add(session.id)
        attach = Attach(session=session.id, epoch=session.epoch, params=session.request.params)
        self._send(self._drafters[name].link, attach)

    def _lose_drafter(self, session: Session) -> None:
        """The drafter is gone: this round goes ahead without it, the next one with another."""
        session.drafter = ""
        self._change_drafter(session)
        if session.phase is Phase.DRAFTING:
            self._go_without_proposal(session)

    def _next_epoch(self) -> Epoch:
        return (self._instance, next(self._epochs))

    # -- rounds -------------------------------------------------------------------------------

    def _on_verdict(self, link: Link, verdict: Verdict) -> None:
        verifier = self._verifiers.get(link.peer)
        if verifier is None:
            return
        verifier.kv_usage, verifier.num_waiting = verdict.kv_usage, verdict.num_waiting
        for item in verdict.items:
            session = self._sessions.get(item.session)
            if session is not None and session.verifier == link.peer and session.awaits_verdict(item):
                verifier.settle(item.session)
                self._commit(session, item, verdict.step_ms / 1e3)
        self._flush_commits()
        self._pump(verifier)

    def _commit(self, session: Session, item: VerdictItem, verify_s: float) -> None:
        now_s = self._clock()
        if session.proposal and session.round_started_s:
            self.stats.add_round(now_s - session.round_started_s, verify_s, session.draft_s)
        commit = session.take_verdict(item)
        self._commits.setdefault(session.ingress.peer, []).append(commit)
        if commit.finish_reason is not None:
            self._release(session)
            return
        session.round_started_s = now_s
        if item.has_go_ahead and item.epoch == session.epoch:
            session.phase = Phase.DRAFTING
            session.deadline_s = now_s + self._settings.proposal_timeout_s
            if session.held is not None and session.offer(session.held):
                self._take_proposal(session)
        else:
            self._make_ready(session)

    def _on_proposal(self, proposal: Proposal) -> None:
        touched: dict[str, None] = {}
        for item in proposal.items:
            session = self._sessions.get(item.session)
            if session is None:
                continue
            session.draft_s = proposal.draft_ms / 1e3
            if session.offer(item):
                self._take_proposal(session)
                touched[session.verifier] = None
        for name in touched:
            self._pump(self._verifiers[name])

    def _take_proposal(self, session: Session) -> None:
        session.patience = lookahead_policy.after_proposal()
        self._make_ready(session)

    def _go_without_proposal(self, session: Session) -> None:
        session.proposal = ()
        self._make_ready(session)
        self._pump(self._verifiers[session.verifier])

    def _make_ready(self, session: Session) -> None:
        """The session takes part in its verifier's next step, unless its reader is slow."""
        session.phase = Phase.READY
        ready = self._verifiers[session.verifier].ready
        if session.is_paused:
            ready.pop(session.id, None)
        else:
            ready[session.id] = None

    def _pump(self, verifier: VerifierPeer) -> None:
        """Send what is ready, all of it in one message, while the verifier has room for one more step."""
        if not verifier.ready or not verifier.has_room:
            return
        sessions = [self._sessions[session_id] for session_id in verifier.ready]
        verifier.ready.clear()
        verifier.steps.append({session.id for session in sessions})
        self.stats.num_verify_messages += 1
        self._send(verifier.link, Verify(items=tuple(self._verify_item(session) for session in sessions)))

    def _verify_item(self, session: Session) -> VerifyItem:
        if not session.drafter and session.wants_drafter and self._drafters:
            self._change_drafter(session)
        item = VerifyItem(
            session=session.id,
            epoch=session.epoch,
            context_len=session.context_len,
            tokens=session.proposal,
            lookahead=self._ask_lookahead(session),
            drafter=session.drafter,
        )
        session.outstanding = item
        self._await_verdict(session)
        return item

    def _ask_lookahead(self, session: Session) -> int:
        """The lookahead of the round after the one that is being sent."""
        settings = self._settings
        lookahead = 0
        if session.drafter:
            lookahead = lookahead_policy.lookahead_for(
                session.request.num_speculative_tokens,
                settings.num_speculative_tokens,
                settings.max_speculative_tokens,
                session.patience,
            )
            session.patience = lookahead_policy.after_skipped_round(session.patience)
        room = room_for_proposal(session.context_len + 1, session.request.max_context_tokens)
        session.asked_lookahead = min(lookahead, room)
        return session.asked_lookahead

    def _await_verdict(self, session: Session) -> None:
        session.phase = Phase.VERIFYING
        session.verify_epoch = session.epoch
        session.deadline_s = self._clock() + self._settings.verify_timeout_s

    # -- what goes wrong ----------------------------------------------------------------------

    def _on_deadline(self, session: Session) -> None:
        if session.phase is Phase.WAITING:
            self._fail(session, "unavailable", "no verifier could be reached in time")
        elif session.phase is Phase.DRAFTING:
            session.patience = lookahead_policy.after_miss(session.patience)
            self.stats.num_missed_proposals += 1
            self._go_without_proposal(session)
        elif session.num_resends == 0 and session.outstanding is not None:
            session.num_resends = 1
            session.deadline_s = self._clock() + self._settings.verify_timeout_s
            again = session.outstanding
            message = again if isinstance(again, Open) else Verify(items=(again,))
            self._send(self._verifiers[session.verifier].link, message)
        else:
            logger.warning("verifier %s does not answer for session %x: it moves", session.verifier, session.id)
            session.num_resends = 0
            self._place(session, avoid=(session.verifier,))

    def _on_refusal(self, link: Link, refusal: Refusal) -> None:
        session = self._sessions.get(refusal.session)
        if session is None or session.verifier != link.peer or refusal.epoch != session.verify_epoch:
            return
        if refusal.reason == "invalid":
            self._fail(session, "invalid", refusal.detail)
        elif refusal.reason != "no_capacity":
            self._place(session)
        elif len(self._verifiers) > 1 and session.num_resends == 0:
            session.num_resends = 1
            self._place(session, avoid=(link.peer,))
        else:
            self._fail(session, "overloaded", refusal.detail)

    # -- sending ------------------------------------------------------------------------------

    def _flush_commits(self) -> None:
        for peer, commits in self._commits.items():
            if link := self._ingresses.get(peer):
                self._send(link, Commits(items=tuple(commits)))
        self._commits.clear()

    def _tell_status(self) -> None:
        if not self._ingresses:
            return
        status = self.stats.status(
            verifiers=self._verifiers.values(), num_drafters=len(self._drafters), sessions=self._sessions.values()
        )
        for link in list(self._ingresses.values()):
            self._send(link, status)

    def _send(self, link: Link, message: Message) -> None:
        """Send, or leave it: a closed link's sessions are moved when `link_closed` comes."""
        try:
            link.send(message)
        except LinkClosed:
            logger.debug("%s is gone, %s not sent", link.peer, type(message).__name__)
