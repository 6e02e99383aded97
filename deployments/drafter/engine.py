"""What a drafter asks of its engine. `mtp_engine.py` is the real one, `fake_engine.py` stands in for it in tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.distributions import Distribution
from deployments.messages import EarlyStop, KvRange, SamplingParams, SessionId, Token


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRequest:
    """Draft `lookahead` tokens, or fewer with `early_stop`, after `last_token`, which stands at `context_len - 1`.

    `hidden` is the target's state at position `context_len - 2`, raw bytes in the model's dtype.
    """

    session: SessionId
    context_len: int
    last_token: Token
    lookahead: int
    hidden: bytes
    early_stop: EarlyStop | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The drafted tokens of one session, with the drafter's probability of each or what it was drawn from."""

    session: SessionId
    tokens: tuple[Token, ...]
    confidences: tuple[float, ...]
    distributions: tuple[Distribution, ...] = ()


class DrafterEngine(Protocol):
    """Holds the assistant, the target's embedding table and one shadow per attached session."""

    def attach(self, session: SessionId, params: SamplingParams) -> None:
        """Begin an empty shadow; a session that is attached already starts over."""

    def detach(self, session: SessionId) -> None:
        """Drop a session's shadow. Idempotent."""

    def has(self, session: SessionId) -> bool:
        """Whether the session is attached (a shadow may be evicted to keep the byte budget)."""

    def have_len(self, session: SessionId) -> int:
        """How many shadow entries, counted from position 0, the session holds without a gap."""

    def extend(
        self, session: SessionId, ranges: Sequence[KvRange], tokens: Sequence[Token] = (), is_whole: bool = True
    ) -> None:
        """Write ranges into the shadow, over what it held there, and forget entries after them.

        `tokens` are those at the ranges' positions; a session that does not need them comes without. Unless `is_whole`,
        the sliding layer's window may have a beginning that is still to come.
        Raises ValueError when the bytes do not fit the model's shapes or a range leaves a gap.
        """

    def draft(self, requests: Sequence[DraftRequest]) -> list[Draft]:
        """Draft for several sessions at once; lookaheads may differ. One draft per request, in order.

        Every session's shadow holds entries 0 .. context_len - 2 when this is called.
        """
