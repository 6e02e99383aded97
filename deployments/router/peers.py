"""The router's verifiers, drafters and ingresses, and which session is placed where."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from deployments.link import Link, send_or_drop
from deployments.messages import Attach, Close, Costs, Detach, DrafterKind, DrafterName, Epoch, Load, SessionId
from deployments.policy.canary import Canaries
from deployments.policy.placement import Candidate, PeerLoad, best_verifier, drafters_of, least_loaded
from deployments.policy.planner import Planner
from deployments.policy.prefixes import BLOCK_TOKENS, PrefixMemory, beginnings, key_of
from deployments.router.session import Session
from deployments.traffic import colocated_name

MAX_STEPS_AT_VERIFIER = 3
"""One step that runs and one queued behind it, which may wait for one more batch of proposals: the verifier never
idles, and no batch is frozen earlier than needed."""


@dataclass(slots=True)
class DrafterPeer:
    """A drafter, what it drafts with, and the sessions that are attached to it, with their classes.

    One inside a verifier has that verifier's link, and drafts for its sessions only.
    """

    link: Link
    kind: DrafterKind
    sessions: dict[SessionId, str] = field(default_factory=dict)
    load: PeerLoad = field(default_factory=PeerLoad)

    @property
    def num_sessions(self) -> int:
        """How many it has, of all routers."""
        return len(self.sessions) + self.load.num_others

    def num_of_class(self, request_class: str) -> int:
        """How many sessions of this class are attached to it."""
        return sum(one == request_class for one in self.sessions.values())


@dataclass(slots=True)
class VerifierPeer:
    """A verifier, the sessions placed on it, and what it has been asked for and not answered yet.

    `lesson` takes in what its latest step taught, which waits until the next is on its way.
    """

    link: Link
    planner: Planner
    sessions: set[SessionId] = field(default_factory=set)
    ready: dict[SessionId, None] = field(default_factory=dict)
    steps: list[set[SessionId]] = field(default_factory=list)
    load: PeerLoad = field(default_factory=PeerLoad)
    prefixes: PrefixMemory = field(default_factory=PrefixMemory)
    lesson: Callable[[], None] | None = None

    @property
    def num_sessions(self) -> int:
        """How many it has, of all routers."""
        return len(self.sessions) + self.load.num_others

    def candidate(self, keys: Sequence[bytes]) -> Candidate:
        """What it is to a session whose tokens have these beginnings."""
        return Candidate(self.num_sessions, self.prefixes.num_held(keys), self.load.num_waiting > 0)

    @property
    def has_room(self) -> bool:
        """Whether one more Verify may be queued at the verifier."""
        return len(self.steps) < MAX_STEPS_AT_VERIFIER

    def learn(self) -> None:
        """Take the lesson, if there is one."""
        lesson, self.lesson = self.lesson, None
        if lesson is not None:
            lesson()

    def settle(self, session: SessionId) -> None:
        """The verifier owes nothing for this session any more; a step that owes nothing is over."""
        for step in self.steps:
            step.discard(session)
        self.steps = [step for step in self.steps if step]

    def forget(self, session: SessionId) -> None:
        """The session has ended or moved away."""
        self.sessions.discard(session)
        self.planner.sessions.pop(session, None)
        self.ready.pop(session, None)
        self.settle(session)


class Peers:
    """Everybody this router is linked to. Every change of a session's placement makes a new epoch."""

    def __init__(self, instance: int) -> None:
        self.verifiers: dict[str, VerifierPeer] = {}
        self.drafters: dict[str, DrafterPeer] = {}
        self.ingresses: dict[str, Link] = {}
        self.canaries = Canaries()
        self._instance = instance
        self._epochs = itertools.count(1)

    def next_epoch(self) -> Epoch:
        """An epoch that is larger than all of this router's before."""
        return (self._instance, next(self._epochs))

    def join_verifier(self, session: Session, avoid: Collection[str] = ()) -> VerifierPeer | None:
        """Put the session where there is room and the least to do for it; None when there is no verifier at all."""
        tokens, salt = session.tokens, session.request.salt
        keys = self._beginnings(session)
        candidates = {peer: verifier.candidate(keys) for peer, verifier in self.verifiers.items()}
        name = best_verifier(candidates, keys[0] if keys else key_of(tokens[:BLOCK_TOKENS], salt), avoid)
        if name is None:
            return None
        session.verifier = name
        verifier = self.verifiers[name]
        verifier.sessions.add(session.id)
        verifier.prefixes.note(keys)
        return verifier

    def _beginnings(self, session: Session) -> list[bytes]:
        """What verifiers may hold of the session's tokens; with a single one nobody needs to know."""
        return beginnings(session.tokens, session.request.salt) if len(self.verifiers) > 1 else []

    def told_costs(self, verifier: str, costs: Costs) -> None:
        """A verifier has said how much of earlier texts it keeps."""
        self.verifiers[verifier].prefixes.has_room_for(costs.num_prefix_tokens)

    def told_load(self, link: Link, load: Load) -> None:
        """A peer has said how many sessions it has of all routers together."""
        peer: VerifierPeer | DrafterPeer | None = self.verifiers.get(link.peer)
        if load.kind is not None:
            peer = self.drafters.get(_name_of(link, load.kind))
        if peer is not None:
            peer.load.told(load.num_sessions, load.num_waiting, len(peer.sessions))

    def leave_verifier(self, session: Session) -> VerifierPeer | None:
        """Take the session off its verifier; returns the one it was on."""
        verifier = self.verifiers.get(session.verifier)
        session.verifier = ""
        if verifier is None or session.id not in verifier.sessions:
            return None
        verifier.forget(session.id)
        verifier.prefixes.note(self._beginnings(session))
        send_or_drop(verifier.link, Close(session=session.id, epoch=session.epoch))
        return verifier

    def change_drafter(self, session: Session, *, keep: bool = False) -> None:
        """Attach the session to a drafter (the one it has, with `keep`) under a new epoch."""
        fitting = self._drafters_for(session)
        kept = session.drafter if keep and session.drafter in fitting else ""
        if not kept:
            self.leave_drafter(session)
        session.epoch = self.next_epoch()
        session.held = None
        if not session.wants_drafter:
            return
        name = kept or least_loaded(fitting)
        if name is None:
            return
        session.drafter = name
        session.num_missed = 0
        self.drafters[name].sessions[session.id] = session.told_class
        session.sent_len = 0
        attach = Attach(
            kind=self.drafters[name].kind,
            session=session.id,
            epoch=session.epoch,
            params=session.request.params,
            max_context_tokens=session.request.max_context_tokens,
            request=session.request.request,
        )
        send_or_drop(self.drafters[name].link, attach)

    def lacks_drafter(self, session: Session) -> bool:
        """Whether a drafter is there of the kind that the session wants, and it has none of that kind."""
        attached = self.drafters.get(session.drafter)
        is_attached = attached is not None and attached.kind == session.drafter_name
        return not is_attached and bool(self._drafters_for(session))

    def kinds_for(self, session: Session) -> dict[DrafterKind, Collection[str]]:
        """The kinds of drafter that this session could be attached to, with the drafters of each."""
        kinds = dict.fromkeys(drafter.kind for drafter in self.drafters.values())
        return {kind: names for kind in kinds if (names := self._drafters_of(kind, session))}

    def _drafters_for(self, session: Session) -> dict[str, int]:
        return self._drafters_of(session.drafter_name, session)

    def _drafters_of(self, kind: DrafterName, session: Session) -> dict[str, int]:
        """How many sessions each drafter has that this session could be attached to: those nearest to its verifier."""
        found = {name: one for name, one in self.drafters.items() if one.kind == kind and self._admits(name, session)}
        inside = {name: drafter for name, drafter in found.items() if drafter.link.peer == session.verifier}
        if inside:
            return {name: drafter.num_sessions for name, drafter in inside.items()}
        remote = (name for name, drafter in found.items() if drafter.link.role == "drafter")
        chosen = drafters_of(session.verifier, self.verifiers, remote)
        return {name: found[name].num_sessions for name in chosen}

    def _admits(self, name: str, session: Session) -> bool:
        """Whether nothing speaks against this drafter for the session's class; what is attached stays so."""
        if session.drafter == name:
            return True
        return self.canaries.admits(name, session.told_class, self.drafters[name].num_of_class(session.told_class))

    def introduce(self, link: Link, kind: DrafterKind) -> None:
        """A drafter is there, or one inside a verifier."""
        self.drafters[_name_of(link, kind)] = DrafterPeer(link, kind)

    def forget_drafters(self, link: Link) -> dict[str, list[SessionId]]:
        """Whoever drafted behind this link is gone; returns the sessions that were attached to each."""
        gone = [name for name, drafter in self.drafters.items() if drafter.link is link]
        for name in gone:
            self.canaries.forget(name)
        return {name: sorted(self.drafters.pop(name).sessions) for name in gone}

    def leave_drafter(self, session: Session) -> None:
        """Detach the session from its drafter, if it has one."""
        drafter = self.drafters.get(session.drafter)
        session.drafter = ""
        if drafter is not None:
            drafter.sessions.pop(session.id, None)
            send_or_drop(drafter.link, Detach(session=session.id, epoch=session.epoch))


def _name_of(link: Link, kind: DrafterKind) -> str:
    """What a drafter behind this link is called: one inside a verifier has that verifier's link."""
    return link.peer if link.role == "drafter" else colocated_name(link.peer, kind)
