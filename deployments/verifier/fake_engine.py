"""A verifier engine without a model: a deterministic toy target that checks how it is used.

Pure Python, so that services test without torch. Misuse of the contract is an AssertionError.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from deployments.memory import MemoryUse
from deployments.messages import KvRange, LayerType, SamplingParams, SessionId, Token
from deployments.paged.prefix_index import Prefix
from deployments.verifier.engine import Chunk, Outcome

_LAYER_TYPES: tuple[LayerType, ...] = ("sliding_attention", "full_attention")


def toy_next_token(tokens: Sequence[Token], *, seed: int, vocab_size: int) -> Token:
    """The toy target's next token: a hash of the sampling seed and the whole context."""
    return _hash(f"target {seed} {','.join(map(str, tokens))}") % vocab_size


def toy_proposal(
    tokens: Sequence[Token], *, seed: int, vocab_size: int, lookahead: int, agreement: float
) -> tuple[Token, ...]:
    """What a toy drafter proposes: each token is the target's own with probability `agreement`, else another."""
    context = list(tokens)
    for _ in range(lookahead):
        token = toy_next_token(context, seed=seed, vocab_size=vocab_size)
        if _hash(f"drafter {seed} {','.join(map(str, context))}") >= agreement * 2**64:
            token = (token + 1) % vocab_size
        context.append(token)
    return tuple(context[len(tokens) :])


@dataclass(slots=True)
class _FakeSession:
    params: SamplingParams
    num_tokens: int
    computed: list[Token] = field(default_factory=list)


class FakeEngine:
    """Implements `VerifierEngine`; counts opens, closes, steps and rollbacks, and keeps every step's chunks.

    Of every prefix it claims to know the first `num_reused` tokens. Its cache holds `num_kv_tokens` (None: what
    all sessions may need).
    """

    def __init__(
        self,
        *,
        vocab_size: int = 50,
        max_context_tokens: int = 256,
        max_sessions: int = 32,
        max_lookahead: int = 16,
        window: int = 8,
        num_reused: int = 0,
        num_kv_tokens: int | None = None,
    ) -> None:
        self.memory = MemoryUse()
        self.num_opened = 0
        self.num_closed = 0
        self.num_rollbacks = 0
        self.steps: list[tuple[Chunk, ...]] = []
        self._vocab_size = vocab_size
        self._max_context_tokens = max_context_tokens
        self._max_sessions = max_sessions
        self._max_lookahead = max_lookahead
        self._window = window
        self._num_reused = num_reused
        self._num_kv_tokens = num_kv_tokens or max_sessions * (max_context_tokens + max_lookahead)
        self.prefixes: list[Prefix | None] = []
        self._sessions: dict[SessionId, _FakeSession] = {}

    @property
    def follows_grammars(self) -> bool:
        """Never: its tokens have no texts."""
        return False

    @property
    def vocab_size(self) -> int:
        """Token ids are in [0, vocab_size)."""
        return self._vocab_size

    @property
    def max_context_tokens(self) -> int:
        """The longest context a single session may have."""
        return self._max_context_tokens

    @property
    def num_kv_tokens(self) -> int:
        """How many entries the cache holds."""
        return self._num_kv_tokens

    @property
    def kv_usage(self) -> float:
        """Share of the cache that open sessions hold."""
        return self._num_held / self._num_kv_tokens

    @property
    def open_sessions(self) -> frozenset[SessionId]:
        """Sessions that were opened and not closed yet."""
        return frozenset(self._sessions)

    def computed_len(self, session: SessionId) -> int:
        """How many entries the session's cache holds."""
        return len(self._sessions[session].computed)

    def can_open(self, num_tokens: int, prefix: Prefix | None = None, num_growing: int = 0) -> bool:
        """Whether a place and so many tokens are free, and one more for each session that grows."""
        fits = self._num_held + num_tokens + num_growing <= self._num_kv_tokens
        return fits and len(self._sessions) < self._max_sessions and num_tokens <= self._max_context_tokens

    def open(self, session: SessionId, params: SamplingParams, num_tokens: int, prefix: Prefix | None = None) -> int:
        """Take a place; ValueError when there is none."""
        assert session not in self._sessions, f"session {session} is open already"
        if not self.can_open(num_tokens):
            raise ValueError("no room; ask can_open first")
        known = list(prefix.tokens[:-1][: self._num_reused]) if prefix is not None else []
        self._sessions[session] = _FakeSession(params, num_tokens, known)
        self.prefixes.append(prefix)
        self.num_opened += 1
        return len(known)

    def grow(self, session: SessionId, num_tokens: int) -> int:
        """Give room token by token."""
        state = self._sessions[session]
        if self._num_held + max(0, num_tokens - state.num_tokens) <= self._num_kv_tokens:
            state.num_tokens = max(state.num_tokens, num_tokens)
        return state.num_tokens

    def close(self, session: SessionId) -> None:
        """Give the place back. Idempotent."""
        if self._sessions.pop(session, None) is not None:
            self.num_closed += 1

    def rollback(self, session: SessionId, computed_len: int) -> None:
        """Forget entries from `computed_len` on. Idempotent."""
        assert computed_len >= 0
        del self._sessions[session].computed[computed_len:]
        self.num_rollbacks += 1

    def step(self, chunks: Sequence[Chunk]) -> list[Outcome]:
        """Decide every chunk that is not partial, as the contract says."""
        assert chunks, "a step has at least one chunk"
        assert len({chunk.session for chunk in chunks}) == len(chunks), "one chunk per session and step"
        self.steps.append(tuple(chunks))
        outcomes = [self._run(chunk) for chunk in chunks]
        return [outcome for outcome in outcomes if outcome is not None]

    def shadow(self, session: SessionId, start: int, stop: int) -> tuple[KvRange, ...]:
        """One byte per entry for keys and one for values, derived from the token there."""
        computed = self._sessions[session].computed
        assert 0 <= start <= stop <= len(computed), "a shadow ends at the computed length"
        ranges = []
        for layer_type in _LAYER_TYPES:
            first = max(start, stop - self._window) if layer_type == "sliding_attention" else start
            keys = bytes(token % 256 for token in computed[first:stop])
            values = bytes((token + 1) % 256 for token in computed[first:stop])
            ranges.append(KvRange(layer_type=layer_type, start=first, stop=stop, keys=keys, values=values))
        return tuple(ranges)

    def hidden(self, session: SessionId) -> bytes:
        """Eight bytes that depend on everything computed."""
        computed = self._sessions[session].computed
        assert computed, f"session {session} has computed nothing yet"
        return _hash(f"hidden {computed}").to_bytes(8, "little")

    def _run(self, chunk: Chunk) -> Outcome | None:
        assert chunk.session in self._sessions, f"session {chunk.session} is not open"
        session = self._sessions[chunk.session]
        assert chunk.start == len(session.computed), "a chunk starts at the computed length"
        assert 0 <= chunk.num_drafted < len(chunk.tokens), "a chunk brings a token besides its proposal"
        assert chunk.num_drafted <= self._max_lookahead, "a proposal is longer than max_lookahead"
        assert not (chunk.is_partial and chunk.num_drafted), "a partial chunk carries no proposal"
        assert all(0 <= token < self._vocab_size for token in chunk.tokens), "a token outside the vocabulary"
        num_known = len(chunk.tokens) - chunk.num_drafted
        assert chunk.start + len(chunk.tokens) <= session.num_tokens, "a context outgrew its room"
        session.computed.extend(chunk.tokens[:num_known])
        if chunk.is_partial:
            return None
        num_accepted = 0
        next_token = self._next(session)
        for drafted in chunk.tokens[num_known:]:
            if drafted != next_token:
                break
            num_accepted += 1
            session.computed.append(drafted)
            next_token = self._next(session)
        return Outcome(session=chunk.session, num_accepted=num_accepted, next_token=next_token)

    @property
    def _num_held(self) -> int:
        return sum(session.num_tokens for session in self._sessions.values())

    def _next(self, session: _FakeSession) -> Token:
        return toy_next_token(session.computed, seed=session.params.seed, vocab_size=self._vocab_size)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
