"""Who has room in the KV cache: sessions come in while their tokens fit, and step aside when others run out of it.

A session is let in by the tokens that it has, not by those that it may come to. When blocks are wanting for a step, the
one of lowest priority that came last gives all of its own back, and is computed again from its committed tokens once
there is room: no output changes, as an entry depends on nothing but the tokens. The first to come never step aside, so
somebody always gets to an end. Nobody steps aside more than `MAX_PREEMPTIONS` times: after that, room is taken for the
longest that the session may become.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from deployments.messages import Open, Refusal, SessionId
from deployments.paged.prefix_index import Prefix
from deployments.verifier.engine import Chunk, VerifierEngine
from deployments.verifier.session import Session, valid_prefix
from deployments.verifier.stats import VerifierStats

MAX_PREEMPTIONS = 3


class Admission:
    """The sessions that wait for room, the first to come first, and those that have some."""

    def __init__(self, engine: VerifierEngine, stats: VerifierStats, *, reuses_prefixes: bool) -> None:
        self._engine = engine
        self._stats = stats
        self._reuses_prefixes = reuses_prefixes
        self._waiting: list[Session] = []
        self._open: dict[SessionId, Session] = {}
        self._num_arrived = 0
        self._may_fit = True  # something has changed since the first in the queue did not fit

    @property
    def num_waiting(self) -> int:
        """Sessions that wait for room."""
        return len(self._waiting)

    @property
    def num_open(self) -> int:
        """Sessions that have room."""
        return len(self._open)

    def objection(self, opened: Open, max_waiting: int) -> Refusal | None:
        """Why a session cannot be taken: its tokens are no tokens, it fits at no time, or too many wait already.

        A grammar was looked at by the ingress, which has the same vocabulary, if this verifier has any.
        """
        session, epoch, params = opened.session, opened.epoch, opened.params
        named = (*opened.tokens, *params.named_tokens)
        if not opened.tokens or len(valid_prefix(named, self._engine.vocab_size)) < len(named):
            detail = f"token ids must be between 0 and {self._engine.vocab_size - 1}"
            return Refusal(session=session, epoch=epoch, reason="invalid", detail=detail)
        if params.grammar and not self._engine.follows_grammars:
            detail = "this verifier cannot follow a grammar, as it could not read the tokenizer"
            return Refusal(session=session, epoch=epoch, reason="invalid", detail=detail)
        detail = ""
        if opened.max_context_tokens > self._engine.max_context_tokens:
            detail = f"a context of {opened.max_context_tokens} tokens, room for {self._engine.max_context_tokens}"
        elif self.num_waiting >= max_waiting:
            detail = f"{self.num_waiting} sessions wait for room already"
        return Refusal(session=session, epoch=epoch, reason="no_capacity", detail=detail) if detail else None

    def has_room(self, session: Session) -> bool:
        """Whether the session holds blocks, so that it can take part in a step."""
        return session.id in self._open

    def wait(self, session: Session) -> None:
        """Queue a session that has work to do and no room, at the place of its first arrival. Idempotent."""
        if session.arrival == 0:
            self._num_arrived += 1
            session.arrival = self._num_arrived
        if session not in self._waiting:
            insort(self._waiting, session, key=_arrival)
            self._may_fit = self._may_fit or self._waiting[0] is session

    def leave(self, session: Session) -> None:
        """The session is over, or has gone elsewhere. Idempotent."""
        if session in self._waiting:
            self._waiting.remove(session)
        elif self._open.pop(session.id, None) is not None:
            self._engine.close(session.id)
        self._may_fit = True

    def admit(self) -> list[Session]:
        """Open waiting sessions, the first to come first, while they fit; nobody passes one that does not."""
        admitted = []
        while self._waiting and self._may_fit:
            session = self._waiting[0]
            if not self._open_session(session):
                self._may_fit = False
                break
            del self._waiting[0]
            self._open[session.id] = session
            admitted.append(session)
        return admitted

    def fit(self, chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[Session]]:
        """Find blocks for a step: the chunks that have room for all their tokens, and the sessions that lost theirs.

        Somebody makes way for a token that is known, nobody for one that is guessed: proposals get what room is left.
        """
        preempted: list[Session] = []
        for chunk in chunks:
            session = self._open.get(chunk.session)
            if session is not None:
                self._make_room(session, chunk.start + len(chunk.tokens) - chunk.num_drafted, preempted)
        return [self._with_proposal(chunk) for chunk in chunks if chunk.session in self._open], preempted

    def _with_proposal(self, chunk: Chunk) -> Chunk:
        """The chunk, with as much of its proposal as finds room."""
        session, num_tokens = self._open[chunk.session], chunk.start + len(chunk.tokens)
        if session.room_tokens < num_tokens:
            session.room_tokens = self._engine.grow(session.id, num_tokens)
        num_left_out = num_tokens - session.room_tokens
        if num_left_out <= 0:
            return chunk
        session.shorten(len(session.proposal) - num_left_out)
        return chunk.without_last(num_left_out)

    def _make_room(self, session: Session, num_tokens: int, preempted: list[Session]) -> None:
        while session.room_tokens < num_tokens:
            session.room_tokens = self._engine.grow(session.id, num_tokens)
            if session.room_tokens >= num_tokens:
                return
            victim = max((one for one in self._open.values() if not _is_settled(one)), key=_rank)
            self._preempt(victim)
            preempted.append(victim)
            if victim is session:
                return

    def _preempt(self, session: Session) -> None:
        """Take the session's blocks; it has to wait again when it has work to do."""
        del self._open[session.id]
        self._engine.close(session.id)
        self._may_fit = True
        session.room_tokens = session.computed_len = 0
        session.num_preemptions += 1
        self._stats.add_preemption()

    def _open_session(self, session: Session) -> bool:
        opened, params = session.opened, session.opened.params
        num_tokens = session.context_len + len(session.proposal)
        if _is_settled(session):
            num_tokens = opened.max_context_tokens
        prefix = Prefix(tokens=tuple(session.tokens), salt=opened.salt) if self._reuses_prefixes else None
        # What is scored is computed, so nothing of it is shared.
        shared = None if params.scores_prompt else prefix
        if not self._engine.can_open(num_tokens, shared, len(self._open)):
            return False
        session.computed_len = self._engine.open(session.id, params, num_tokens, prefix)
        session.room_tokens = num_tokens
        if session.num_preemptions == 0:  # what a session finds of its own says nothing of others' beginnings
            session.num_cached = session.computed_len
            self._stats.add_prefix(len(opened.tokens), session.num_cached)
        return True


def _arrival(session: Session) -> int:
    return session.arrival


def _is_settled(session: Session) -> bool:
    """Whether the session has (or shall get) all the room that it may need, so that it never steps aside again."""
    return session.num_preemptions >= MAX_PREEMPTIONS


def _rank(session: Session) -> tuple[bool, int]:
    return session.opened.priority == "batch", session.arrival
