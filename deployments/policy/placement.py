"""Which peer gets a session, and whose drafters are whose."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping


def least_loaded(num_sessions: Mapping[str, int], avoid: Collection[str] = ()) -> str | None:
    """The peer with the fewest sessions (the first by name among equals), outside `avoid` where there is a choice."""
    if not num_sessions:
        return None
    candidates = [peer for peer in num_sessions if peer not in avoid] or list(num_sessions)
    return min(candidates, key=lambda peer: (num_sessions[peer], peer))


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
