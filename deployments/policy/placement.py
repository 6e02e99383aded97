"""Which peer gets a session, and whose drafters are whose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

_SLACK, _SLACK_SHARE = 2, 0.25
"""How many sessions, or what share of the least, a verifier may have more than the one with the fewest."""
_SESSION_TOKENS = 128
"""A session more in every step costs as much as computing so many tokens of a prompt."""


@dataclass(slots=True)
class PeerLoad:
    """How busy a peer is with what others gave it. What a router gave it itself is known better at home."""

    num_others: int = 0
    num_waiting: int = 0

    def told(self, num_sessions: int, num_waiting: int, num_own: int) -> None:
        """The peer has so many sessions in all, of which so many wait for room there; `num_own` are this router's."""
        self.num_others = max(0, num_sessions - num_own)
        self.num_waiting = num_waiting


class Candidate(NamedTuple):
    """A verifier that a session could be placed on, and how much of the session's tokens it probably holds.

    Others wait for room where it `is_full`.
    """

    num_sessions: int
    num_held: int = 0
    is_full: bool = False


def best_verifier(candidates: Mapping[str, Candidate], key: bytes, avoid: Collection[str] = ()) -> str | None:
    """The verifier for a session, outside `avoid` where there is a choice; None if there is none.

    Of those that have room and next to the fewest sessions, the one where the least has to be done: tokens to compute
    and sessions to share steps with. Of equals `key`, the session's beginning, picks one: routers that know nothing
    of each other's sessions send what begins alike to the same one, and what does not to all of them.
    """
    allowed = {name: one for name, one in candidates.items() if name not in avoid} or dict(candidates)
    free = {name: one for name, one in allowed.items() if not one.is_full} or allowed
    if not free:
        return None
    fewest = min(one.num_sessions for one in free.values())
    most = fewest + max(_SLACK, _SLACK_SHARE * fewest)

    def cost(name: str) -> tuple[int, bytes]:
        one = free[name]
        rank = blake2b(name.encode(), digest_size=8, key=key).digest()
        return _SESSION_TOKENS * (one.num_sessions - fewest) - one.num_held, rank

    return min((name for name, one in free.items() if one.num_sessions <= most), key=cost)


def least_loaded(num_sessions: Mapping[str, int]) -> str | None:
    """The peer with the fewest sessions, the first by name among equals."""
    return min(num_sessions, key=lambda peer: (num_sessions[peer], peer), default=None)


def drafters_of(verifier: str, verifiers: Iterable[str], drafters: Iterable[str]) -> list[str]:
    """The drafters for a verifier's sessions: its own where there are enough, else one that it shares.

    A verifier's sessions are drafted for in one batch, so that a drafter of its own has no queue, while one that
    serves all verifiers gets as many batches as if it were alone. Every router comes to the same, by the names.
    """
    theirs, ours = sorted(verifiers), sorted(drafters)
    if verifier not in theirs or not ours:
        return ours
    place, num_verifiers = theirs.index(verifier), len(theirs)
    if len(ours) < num_verifiers:
        return [ours[place % len(ours)]]
    return ours[place::num_verifiers]
