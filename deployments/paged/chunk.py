"""What a packed forward pass is made of; no torch here, so that schedulers test without it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deployments.distributions import Distribution
from deployments.messages import SessionId, Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One session's part of a step: the `tokens` at positions `start` onwards.

    `start` is the session's computed length. The last `num_drafted` tokens are a proposal to
    verify. `is_partial` marks a prompt chunk that does not reach the last known token: it fills
    the cache and yields no token (`num_drafted` is 0 then). `distributions` are what the drafted tokens
    were drawn from, where rejection sampling asks and it is known. `scored[i]` is the known token that
    follows `tokens[i]`, and its log-probability is asked for: none, or all that are in the prompt.
    """

    session: SessionId
    start: int
    tokens: tuple[Token, ...]
    num_drafted: int = 0
    is_partial: bool = False
    distributions: tuple[Distribution, ...] = ()
    scored: tuple[Token, ...] = ()

    def without_last(self, num_tokens: int) -> Chunk:
        """The chunk without so many of the last tokens of its proposal."""
        assert 0 < num_tokens <= self.num_drafted, "only drafted tokens can be left out"
        num_drafted = self.num_drafted - num_tokens
        return replace(
            self,
            tokens=self.tokens[:-num_tokens],
            num_drafted=num_drafted,
            distributions=self.distributions[:num_drafted],
        )
