"""Drafters inside a verifier of several ranks: services beside the verifier's, engines in the first rank's process.

The process that schedules has neither a device nor torch; the first rank has both, and drafts while
the others stand still, as they would while a colocated drafter of one process drafts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from deployments.drafter.engine import Draft, DrafterEngine, DraftRequest
from deployments.drafter.token_engine import ReadRequest, TokenDrafterEngine
from deployments.messages import DrafterKind, KvRange, SamplingParams, SessionId, Token

PROTOCOLS: dict[DrafterKind, type] = {"mtp": DrafterEngine, "draft_model": TokenDrafterEngine}
"""What can be called on each kind's engine."""

Call = Callable[..., Any]
"""(method, arguments) -> its result; a ValueError of the engine's is raised here."""
Caller = Callable[[str, type], Call]
"""(engine, its Protocol) -> what calls its methods."""


class MtpRankEngine:
    """Implements `DrafterEngine` by calls to one that another process holds."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def attach(self, session: SessionId, params: SamplingParams) -> None:
        """Begin an empty shadow; a session that is attached already starts over."""
        self._call("attach", session, params)

    def detach(self, session: SessionId) -> None:
        """Drop a session's shadow. Idempotent."""
        self._call("detach", session)

    def has(self, session: SessionId) -> bool:
        """Whether the session is attached and its shadow was not evicted."""
        found: bool = self._call("has", session)
        return found

    def have_len(self, session: SessionId) -> int:
        """Shadow entries held from position 0 on."""
        length: int = self._call("have_len", session)
        return length

    def extend(
        self, session: SessionId, ranges: Sequence[KvRange], tokens: Sequence[Token] = (), is_whole: bool = True
    ) -> None:
        """Write ranges into the shadow; ValueError where they do not fit."""
        self._call("extend", session, ranges, tokens, is_whole)

    def draft(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        """Draft for several sessions at once."""
        drafts: list[Draft] = self._call("draft", requests)
        return drafts


class TokenRankEngine:
    """Implements `TokenDrafterEngine` by calls to one that another process holds."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._vocab_size: int = call("vocab_size")

    @property
    def vocab_size(self) -> int:
        """Token ids are in [0, vocab_size)."""
        return self._vocab_size

    def attach(self, session: SessionId, params: SamplingParams, max_context_tokens: int) -> None:
        """Take a session; one that is attached already starts over."""
        self._call("attach", session, params, max_context_tokens)

    def detach(self, session: SessionId) -> None:
        """Forget a session. Idempotent."""
        self._call("detach", session)

    def computed_len(self, session: SessionId) -> int:
        """How many entries the cache holds of the session."""
        length: int = self._call("computed_len", session)
        return length

    def draft(self, requests: Sequence[ReadRequest]) -> list[Draft]:
        """Read and draft for several sessions at once."""
        drafts: list[Draft] = self._call("draft", requests)
        return drafts
