"""What drafted tokens were drawn from, for rejection sampling: sparse on the wire, whole within a process."""

from __future__ import annotations

import msgspec

from deployments.records import Acceptance as Acceptance


class Distribution(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Exactly what one token was drawn from: int32 ids and float32 probabilities that add up to 1, little endian.

    Without ids there is one probability for each token of the vocabulary.
    """

    token_ids: bytes
    probabilities: bytes


KEPT = Distribution(token_ids=b"", probabilities=b"")
"""Stands in a proposal for a distribution that is in the verifier's store."""


class DistributionStore:
    """Hands the distributions of drafters inside a verifier to that verifier, past the router.

    Of each session those of the last proposal are kept, of at most `max_sessions` sessions.
    """

    def __init__(self, max_sessions: int = 1024) -> None:
        self._max_sessions = max_sessions
        self._kept: dict[int, tuple[int, tuple[Distribution, ...]]] = {}

    def put(self, session: int, context_len: int, distributions: tuple[Distribution, ...]) -> None:
        """Keep what a proposal was drawn from."""
        self._kept.pop(session, None)
        self._kept[session] = (context_len, distributions)
        if len(self._kept) > self._max_sessions:
            del self._kept[next(iter(self._kept))]

    def take(self, session: int, context_len: int) -> tuple[Distribution, ...]:
        """What the session's proposal at this context was drawn from; () when nothing is known of it."""
        kept_len, distributions = self._kept.pop(session, (-1, ()))
        return distributions if kept_len == context_len else ()


def kept_or_sent(
    store: DistributionStore | None, session: int, context_len: int, distributions: tuple[Distribution, ...]
) -> tuple[Distribution, ...]:
    """What a proposal carries: the distributions, or marks for those that a store keeps."""
    if store is None or not distributions:
        return distributions
    store.put(session, context_len, distributions)
    return (KEPT,) * len(distributions)
