"""What drafting from tokens alone asks of its engine: `draft_model_engine.py` is the real one, `fake_token_engine.py`
stands in for it in tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.drafter.engine import Draft
from deployments.messages import SamplingParams, SessionId, Token


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """Read `tokens`, at positions `start` onwards, then draft `num_draft_tokens` after them (0: only read).

    What the session's cache held from `start` on is forgotten. The first `context_len` tokens of the text are
    committed: under rejection sampling the noise of a draft belongs to that as well as to its position, since what
    became of a guess says something of the noise behind it.
    """

    session: SessionId
    start: int
    tokens: tuple[Token, ...]
    num_draft_tokens: int
    context_len: int


class TokenDrafterEngine(Protocol):
    """Holds a draft model and a bounded cache; an attached session may lose its part of that at any time."""

    @property
    def vocab_size(self) -> int:
        """Token ids are in [0, vocab_size)."""

    def attach(self, session: SessionId, params: SamplingParams, max_context_tokens: int) -> None:
        """Take a session that may grow to `max_context_tokens`; one that is attached already starts over."""

    def detach(self, session: SessionId) -> None:
        """Forget a session. Idempotent."""

    def computed_len(self, session: SessionId) -> int:
        """How many entries, from position 0 on, the cache holds of the session; 0 when it was evicted."""

    def draft(self, requests: Sequence[ReadRequest]) -> list[Draft]:
        """Read and draft for several sessions at once; one draft per request, in order.

        A request starts at or before its session's computed length. Afterwards that is
        `start + len(tokens) + num_draft_tokens - 1` (with 0 drafted: `start + len(tokens)`): the last
        drafted token has no entry yet. A session for which there is no room gets an empty draft and
        a computed length of 0.
        """
