"""A drafter engine for tokens without a model: it drafts what it is told, and asserts the contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deployments.drafter.engine import Draft
from deployments.drafter.token_engine import ReadRequest
from deployments.messages import SamplingParams, SessionId, Token

TextOracle = Callable[[SamplingParams, Sequence[Token]], Token]
"""(parameters, text) -> the token to draft after it."""


class FakeTokenEngine:
    """A TokenDrafterEngine that keeps each session's text as its cache; `max_tokens` bounds all of them together."""

    def __init__(self, oracle: TextOracle, *, vocab_size: int = 50, max_tokens: int = 1 << 30) -> None:
        self._oracle = oracle
        self._max_tokens = max_tokens
        self.vocab_size = vocab_size
        self.params: dict[SessionId, SamplingParams] = {}
        self.cached: dict[SessionId, list[Token]] = {}
        self.batches: list[tuple[ReadRequest, ...]] = []

    def attach(self, session: SessionId, params: SamplingParams, max_context_tokens: int) -> None:
        """Take a session with an empty cache."""
        self.params[session] = params
        self.cached[session] = []

    def detach(self, session: SessionId) -> None:
        """Forget a session. Idempotent."""
        self.params.pop(session, None)
        self.cached.pop(session, None)

    def computed_len(self, session: SessionId) -> int:
        """How many tokens the cache holds of the session."""
        return len(self.cached[session])

    def draft(self, requests: Sequence[ReadRequest]) -> list[Draft]:
        """Read, then ask the oracle token by token."""
        self.batches.append(tuple(requests))
        drafts = []
        for request in requests:
            cache = self.cached[request.session]
            assert request.tokens, "a request reads something"
            assert request.start <= len(cache), "a request leaves a gap"
            del cache[request.start :]
            cache.extend(request.tokens)
            drafted: list[Token] = []
            for _ in range(request.num_draft_tokens):
                drafted.append(self._oracle(self.params[request.session], [*cache, *drafted]))
            cache.extend(drafted[:-1])
            if sum(map(len, self.cached.values())) > self._max_tokens:
                cache.clear()
                drafted.clear()
            drafts.append(Draft(session=request.session, tokens=tuple(drafted), confidences=(1.0,) * len(drafted)))
        return drafts
