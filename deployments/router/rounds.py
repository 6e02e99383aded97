"""Rounds: open -> (verdict -> commit -> proposal -> verify)*, for all sessions of a router.

One Verify per verifier and step and one Commits per ingress and step carry all sessions that are
ready. While a verifier has three of them to answer, what becomes ready waits here and goes together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from deployments.link import send_or_drop
from deployments.messages import (
    Commit,
    Commits,
    DrafterName,
    Need,
    Open,
    PolicyName,
    Proposal,
    SessionId,
    Verdict,
    VerdictItem,
    Verify,
    VerifyItem,
)
from deployments.policy import patience as patience_policy
from deployments.policy.limits import room_for_proposal
from deployments.policy.speculation import SpeculationSettings
from deployments.router.choosing import Choosing
from deployments.router.drafting import Drafts
from deployments.router.lookaheads import Lookaheads, Round
from deployments.router.peers import Peers, VerifierPeer
from deployments.router.session import Phase, Session
from deployments.router.stats import RouterStats

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """Bounds and deadlines of a router; seconds and tokens. `drafter` serves requests that leave it open."""

    max_sessions: int = 256
    drafter: DrafterName = "mtp"
    policy: PolicyName = "adaptive"
    num_speculative_tokens: int = 4
    max_speculative_tokens: int = 16
    proposal_timeout_s: float = 1.0
    verify_timeout_s: float = 30.0
    placement_timeout_s: float = 30.0

    @property
    def speculation(self) -> SpeculationSettings:
        """Who decides a lookahead, and its bounds."""
        return SpeculationSettings(
            policy=self.policy,
            num_speculative_tokens=self.num_speculative_tokens,
            max_speculative_tokens=self.max_speculative_tokens,
        )


class Rounds:
    """Drives every session from one phase to the next. `on_end` is told of sessions whose output is complete."""

    def __init__(
        self,
        settings: RouterSettings,
        peers: Peers,
        sessions: dict[SessionId, Session],
        clock: Callable[[], float],
        on_end: Callable[[Session], None],
        stats: RouterStats,
    ) -> None:
        self._settings = settings
        self._peers = peers
        self._sessions = sessions
        self._clock = clock
        self._on_end = on_end
        self._commits: dict[str, list[Commit]] = {}
        self._stats = stats
        self._drafts = Drafts(peers)
        self.lookaheads = Lookaheads(settings.speculation, clock)
        self._choosing = Choosing(peers, self.lookaheads)

    def open(self, session: Session, avoid: Collection[str] = ()) -> None:
        """Place a session, new or moved, from its committed tokens; with no verifier there it waits for one."""
        self.leave(session)
        session.proposal, session.held = (), None
        verifier = self._peers.join_verifier(session, avoid)
        if verifier is None:
            if session.phase is not Phase.WAITING or session.deadline_s == 0.0:
                session.phase = Phase.WAITING
                session.deadline_s = self._clock() + self._settings.placement_timeout_s
            return
        self._choosing.begin(session)
        self.attach(session, keep=True)
        opening = Open(
            session=session.id,
            epoch=session.epoch,
            tokens=tuple(session.tokens),
            max_context_tokens=session.request.max_context_tokens,
            params=session.request.params,
            stop_token_ids=session.request.stop_token_ids,
            drafter=session.fed_drafter,
            lookahead=self._go_ahead(session),
            early_stop=session.asked_early_stop,
            request=session.request.request,
            salt=session.request.salt,
            priority=session.request.priority,
        )
        logger.info("session placed", extra=session.about(verifier=session.verifier, drafter=session.drafter))
        session.round_started_s = 0.0
        self._await_verdict(session, opening)
        send_or_drop(verifier.link, opening)

    def attach(self, session: Session, *, keep: bool = False) -> None:
        """Give a session a drafter (the one it has, with `keep`) under a new epoch."""
        self._peers.change_drafter(session, keep=keep)
        self._drafts.let_read(session)

    def leave(self, session: Session) -> None:
        """Take a session off its verifier, which may let others go ahead."""
        if (verifier := self._peers.leave_verifier(session)) is not None:
            self.pump(verifier)

    def on_verdict(self, verifier: VerifierPeer, verdict: Verdict) -> None:
        """Commit what a step decided and begin the next round of each of its sessions."""
        awaited = []
        for item in verdict.items:
            session = self._sessions.get(item.session)
            if session is not None and item.session in verifier.sessions and session.awaits_verdict(item):
                awaited.append((session, item))
        rounds = []
        for session, item in awaited:
            verifier.settle(item.session)
            if session.round_started_s and verdict.step_ms:  # the first one of a placement read a prompt
                rounds.append(self._ended_round(verifier, session, item, verdict.step_ms))
            self._commit(session, item, verdict.step_ms / 1e3)
        for peer, commits in self._commits.items():
            if link := self._peers.ingresses.get(peer):
                send_or_drop(link, Commits(items=tuple(commits)))
        self._commits.clear()
        self._drafts.send()
        is_asked = self.pump(verifier)
        num_own_tokens = sum(1 + item.num_drafted for item in verdict.items)
        verifier.learn()
        verifier.lesson = partial(self.lookaheads.learn, verifier, verdict, num_own_tokens, rounds)
        if is_asked:
            verifier.learn()

    def on_wait(self, verifier: VerifierPeer, session: Session) -> None:
        """The session waits for room at its verifier, and others need not wait for it."""
        session.num_resends = 0
        session.deadline_s = self._clock() + self._settings.verify_timeout_s
        verifier.settle(session.id)
        self.pump(verifier)

    def on_proposal(self, proposal: Proposal) -> None:
        """Take the proposals that are waited for, and let their verifiers go ahead."""
        verifiers: dict[str, None] = {}
        now_s, drafter = self._clock(), ""
        for item in proposal.items:
            session = self._sessions.get(item.session)
            if session is None:
                continue
            if item.epoch == session.epoch:
                drafter = session.drafter
            session.draft_s = proposal.draft_ms / 1e3
            if session.offer(item):
                self._take_proposal(session, now_s)
                verifiers[session.verifier] = None
        for name in verifiers:
            self.pump(self._peers.verifiers[name])
        if drafter:
            self.lookaheads.on_draft(drafter, proposal)

    def on_need(self, session: Session, need: Need) -> None:
        """A drafter of tokens has missed some."""
        self._drafts.ask_again(session, need, is_awaited=session.phase is Phase.DRAFTING)

    def on_miss(self, session: Session) -> None:
        """The proposal did not come in time: the round goes ahead without it."""
        self._stats.proposal_misses.add()
        logger.info("no proposal in time", extra=session.about(drafter=session.drafter))
        session.patience = patience_policy.after_miss(session.patience)
        self.go_without_proposal(session)

    def go_without_proposal(self, session: Session) -> None:
        """This round has lookahead 0."""
        session.proposal = ()
        self.make_ready(session)
        self.pump(self._peers.verifiers[session.verifier])

    def make_ready(self, session: Session) -> None:
        """The session takes part in its verifier's next step, unless its reader is slow."""
        session.phase = Phase.READY
        ready = self._peers.verifiers[session.verifier].ready
        if session.is_paused:
            ready.pop(session.id, None)
        else:
            ready[session.id] = None

    def pump(self, verifier: VerifierPeer) -> bool:
        """Send what is ready, all of it in one message, if the verifier has room for one more step; whether it has.

        Then it computes, and there is time to learn. Before that drafters do, which may have no core to spare.
        """
        if not verifier.ready or not verifier.has_room:
            return False
        sessions = [self._sessions[session_id] for session_id in verifier.ready]
        verifier.ready.clear()
        verifier.steps.append({session.id for session in sessions})
        send_or_drop(verifier.link, Verify(items=tuple(self._verify_item(session) for session in sessions)))
        verifier.learn()
        return True

    def _ended_round(self, verifier: VerifierPeer, session: Session, item: VerdictItem, step_ms: float) -> Round:
        """What there is to learn from a round; the drafter's canary for this class learns at once."""
        drafter = self._peers.drafters.get(session.drafter)
        if drafter is not None and item.num_drafted and session.proposed_by == drafter.kind:
            is_held = item.num_accepted > 0
            session.num_missed = 0 if is_held else session.num_missed + 1
            self._peers.canaries.observe(session.drafter, session.told_class, is_held, session.num_missed)
        gap_ms = (self._clock() - session.round_started_s) * 1e3 - step_ms
        return self.lookaheads.observe(verifier, session, item, gap_ms)

    def _commit(self, session: Session, item: VerdictItem, verify_s: float) -> None:
        now_s = self._clock()
        if session.proposal and session.round_started_s:
            self._stats.add_round(now_s - session.round_started_s, verify_s, session.draft_s)
        commit = session.take_verdict(item)
        if logger.isEnabledFor(logging.DEBUG):
            more = {"drafted": commit.num_drafted, "accepted": commit.num_accepted, "tokens": len(commit.tokens)}
            logger.debug("round", extra=session.about(**more))
        self._commits.setdefault(session.ingress.peer, []).append(commit)
        if commit.finish_reason is not None:
            self._on_end(session)
            return
        self._choosing.committed(session)
        session.round_started_s = now_s
        has_go_ahead = item.has_go_ahead and item.epoch == session.epoch
        if not has_go_ahead and not self._drafts.ask(session):
            # Nobody drafts: no drafter is attached, or its shadow still fills.
            self._look_up(session)
            self.make_ready(session)
            return
        session.phase = Phase.DRAFTING
        session.deadline_s = now_s + self._settings.proposal_timeout_s
        if session.held is not None and session.offer(session.held):
            self._take_proposal(session, now_s)

    def _take_proposal(self, session: Session, now_s: float) -> None:
        self._stats.exposed_draft_seconds.observe(now_s - session.round_started_s)
        session.patience = patience_policy.after_proposal()
        self._choosing.drafted(session, now_s)
        if not session.proposal:  # the drafter still reads, or had no room
            self._look_up(session)
        self.make_ready(session)

    def _look_up(self, session: Session) -> None:
        session.draft_s = 0.0
        session.look_up()
        self._choosing.looked_up(session)

    def _verify_item(self, session: Session) -> VerifyItem:
        has_changed = self._choosing.changes(session)
        if session.wants_drafter and self._peers.lacks_drafter(session):
            self.attach(session)
            self._choosing.attached(session, self._clock())
            if session.drafter:
                self._stats.add_epoch("drafter_chosen" if has_changed else "drafter_came")
        # What the proposal was asked for with becomes known as such when the next one is asked for.
        lookahead = self._go_ahead(session)
        tokens, survival_percent = self.lookaheads.offered(session)
        self._stats.add_lookahead(session.request.request_class, len(session.proposal))
        item = VerifyItem(
            session=session.id,
            epoch=session.epoch,
            context_len=session.context_len,
            tokens=tokens,
            lookahead=lookahead,
            early_stop=session.asked_early_stop,
            drafter=session.fed_drafter,
            survival_percent=survival_percent,
            distributions=session.distributions,
        )
        self._await_verdict(session, item)
        return item

    def _go_ahead(self, session: Session) -> int:
        """How many tokens the verifier shall tell the session's drafter to draft for the round after this one."""
        lookahead = self._ask_lookahead(session)
        return lookahead if session.fed_drafter else 0

    def _ask_lookahead(self, session: Session) -> int:
        """The lookahead of the round after the one that is being sent, whoever drafts."""
        lookahead = self.lookaheads.ask(self._peers.verifiers[session.verifier].planner, session)
        room = room_for_proposal(session.context_len + 1, session.request.max_context_tokens)
        allowed = session.request.max_speculative_tokens
        session.asked_lookahead = min(lookahead, room if allowed is None else min(room, allowed))
        return session.asked_lookahead

    def _await_verdict(self, session: Session, asked: Open | VerifyItem) -> None:
        session.phase = Phase.VERIFYING
        session.outstanding = asked
        session.verify_epoch = session.epoch
        session.deadline_s = self._clock() + self._settings.verify_timeout_s
