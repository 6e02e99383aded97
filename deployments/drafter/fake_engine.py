"""A drafter engine without torch or a model: it drafts what it is told, and asserts the contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deployments.drafter.engine import Draft, DraftRequest
from deployments.messages import KvRange, SamplingParams, SessionId, Token

Oracle = Callable[[SessionId, int, Token, int], Sequence[Token]]
"""(session, context_len, last_token, lookahead) -> drafted tokens."""


def garbage(session: SessionId, context_len: int, last_token: Token, lookahead: int) -> list[Token]:
    """Tokens that depend on all arguments and that no target would choose."""
    return [(session * 31 + context_len * 7 + last_token * 3 + step) % 97 for step in range(lookahead)]


class FakeDrafterEngine:
    """A DrafterEngine that keeps lengths instead of tensors, deterministic given its oracle.

    `max_shadow_len` bounds the entries of all shadows together; past it the least recently drafted
    session is evicted. `batches` records the sessions of every draft call.
    """

    def __init__(self, oracle: Oracle = garbage, *, max_shadow_len: int = 1 << 30) -> None:
        self._oracle = oracle
        self._max_shadow_len = max_shadow_len
        self._lengths: dict[SessionId, int] = {}
        self.params: dict[SessionId, SamplingParams] = {}
        self.batches: list[tuple[SessionId, ...]] = []
        self.num_attached = 0
        self.num_detached = 0
        self.num_extended = 0

    def attach(self, session: SessionId, params: SamplingParams) -> None:
        """Begin an empty shadow; a session that is attached already starts over."""
        self._lengths.pop(session, None)
        self._lengths[session] = 0
        self.params[session] = params
        self.num_attached += 1

    def detach(self, session: SessionId) -> None:
        """Drop a session's shadow. Idempotent."""
        self._lengths.pop(session, None)
        if self.params.pop(session, None) is not None:
            self.num_detached += 1

    def has(self, session: SessionId) -> bool:
        """Whether the session is attached and its shadow was not evicted."""
        return session in self._lengths

    def have_len(self, session: SessionId) -> int:
        """Shadow entries held from position 0 on; 0 when the shadow was evicted."""
        return self._lengths.get(session, 0)

    def extend(
        self, session: SessionId, ranges: Sequence[KvRange], tokens: Sequence[Token] = (), is_whole: bool = True
    ) -> None:
        """Take the full layer's ranges as the shadow's length; ValueError on a gap or on missing bytes."""
        assert session in self.params, "extend comes after attach"
        length = self.have_len(session)
        for item in ranges:
            if not 0 <= item.start <= item.stop:
                raise ValueError(f"range [{item.start}, {item.stop}) is no range of positions")
            if len(item.keys) != len(item.values):
                raise ValueError(f"{len(item.keys)} bytes of keys but {len(item.values)} of values")
            if item.layer_type == "full_attention":
                if item.start > length:
                    raise ValueError(f"range [{item.start}, {item.stop}) leaves a gap after {length} entries")
                length = item.stop
        self._lengths[session] = length
        self._touch(session)
        self.num_extended += 1
        while sum(self._lengths.values()) > self._max_shadow_len:
            self.evict(next(iter(self._lengths)))

    def draft(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        """Ask the oracle; a session evicted meanwhile gets an empty draft."""
        drafts = []
        for request in requests:
            tokens: tuple[Token, ...] = ()
            if self.has(request.session):
                assert self.have_len(request.session) == request.context_len - 1, "the shadow is not at this context"
                assert request.lookahead > 0, "a request for no tokens should not come this far"
                args = (request.session, request.context_len, request.last_token, request.lookahead)
                tokens = tuple(self._oracle(*args))
                assert len(tokens) <= request.lookahead
                self._touch(request.session)
            drafts.append(Draft(session=request.session, tokens=tokens, confidences=(1.0,) * len(tokens)))
        self.batches.append(tuple(request.session for request in requests))
        return drafts

    def evict(self, session: SessionId) -> None:
        """Lose a shadow, as a drafter short of memory would; the session stays attached."""
        self._lengths.pop(session, None)

    def _touch(self, session: SessionId) -> None:
        self._lengths[session] = self._lengths.pop(session)
