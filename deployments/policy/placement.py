"""Which peer gets a session."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def least_loaded(num_sessions: Mapping[str, int], avoid: Collection[str] = ()) -> str | None:
    """The peer with the fewest sessions (the first by name among equals), outside `avoid` where there is a choice."""
    if not num_sessions:
        return None
    candidates = [peer for peer in num_sessions if peer not in avoid] or list(num_sessions)
    return min(candidates, key=lambda peer: (num_sessions[peer], peer))
