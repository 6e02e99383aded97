"""What a verifier asks of its engine. `paged_engine.py` is the real one, `fake_engine.py` stands in for it in tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.memory import MemoryUse
from deployments.messages import KvRange, SamplingParams, SessionId, Token, TokenLogprobs
from deployments.paged.chunk import Chunk
from deployments.paged.prefix_index import Prefix

__all__ = ["Chunk", "Outcome", "VerifierEngine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a chunk decided: `num_accepted` drafted tokens hold, and `next_token` follows them.

    `logprobs` has an entry for each of them, `prompt_logprobs` one for each scored token of this chunk
    and the session's partial ones before it, if the session's parameters ask for them.
    """

    session: SessionId
    num_accepted: int
    next_token: Token
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


class VerifierEngine(Protocol):
    """Holds the target and the KV cache of every open session; one forward pass per step.

    After a step a session's computed length is `start + len(tokens) - (num_drafted - num_accepted)`:
    entries of rejected tokens are gone. The output is a function of target, parameters and seed
    alone, never of what was drafted or batched together.
    """

    @property
    def memory(self) -> MemoryUse:
        """What it takes."""

    @property
    def vocab_size(self) -> int:
        """Token ids are in [0, vocab_size)."""

    @property
    def follows_grammars(self) -> bool:
        """Whether sessions may ask for a grammar."""

    @property
    def max_context_tokens(self) -> int:
        """The longest context a single session may have."""

    @property
    def num_kv_tokens(self) -> int:
        """How many entries the KV cache holds."""

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache that open sessions hold, 0 to 1."""

    def can_open(self, num_tokens: int, prefix: Prefix | None = None, num_growing: int = 0) -> bool:
        """Whether a session with room for `num_tokens` fits beside those that are open, of which so many may grow."""

    def open(self, session: SessionId, params: SamplingParams, num_tokens: int, prefix: Prefix | None = None) -> int:
        """Begin a session with room for `num_tokens`, proposals included.

        Returns its computed length: how many entries of `prefix`, whose last token is never among them, are known
        from sessions that began alike. None reuses nothing, and lets nobody reuse this session's.
        """

    def grow(self, session: SessionId, num_tokens: int) -> int:
        """Ask for room for `num_tokens`; returns what the session has room for: at least that, or it is wanting."""

    def close(self, session: SessionId) -> None:
        """Free a session's room. Idempotent."""

    def rollback(self, session: SessionId, computed_len: int) -> None:
        """Forget cache entries from `computed_len` on; never those that `open` found. Idempotent.

        A step's longest proposal may be forgotten, and no more: layers that see a window keep no more than that.
        """

    def step(self, chunks: Sequence[Chunk]) -> list[Outcome]:
        """Run one forward pass over the packed chunks; one outcome per chunk that is not partial, in order."""

    def shadow(self, session: SessionId, start: int, stop: int) -> tuple[KvRange, ...]:
        """Entries [start, stop) of the shadow layers, `stop` at most the computed length.

        The sliding layer's range begins no earlier than its window before `stop` needs.
        """

    def hidden(self, session: SessionId) -> bytes:
        """The target's state after the final norm at the last computed position, shape (hidden size,), as raw bytes."""
