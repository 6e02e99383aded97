"""What a round costs a verifier's sessions besides its step."""

from __future__ import annotations

from collections.abc import Sequence

_FALL, _RISE = 0.3, 0.01
"""The least is wanted: what rounds take beyond it is in round_times.py. A step of many sessions that all waited for
something else rises as slowly as one of a few.
"""
_STOOD_STILL_MS = 0.05


class Exposure:
    """Learns the hops of one verifier's rounds: what is left of the time between two steps beside the draft.

    `gap_ms` of a round is the time from its verdict to the start of the step that answers it, `draft_ms` the
    drafter's part of it, `idle_ms` how long the verifier had stood still before that step: if not at all, the gap
    has a wait in its queue and tells nothing. Hops are the least that a gap has besides the draft. So many of the
    router's sessions, `num_sessions`, shared that step.
    """

    def __init__(self) -> None:
        self.hop_ms = 1.0
        self.bare_hop_ms = 0.5

    def observe_drafted(self, gap_ms: float, draft_ms: float, idle_ms: float, num_sessions: int) -> None:
        """Take one session's round that had a proposal."""
        if idle_ms > _STOOD_STILL_MS:
            self.hop_ms = _towards(self.hop_ms, max(0.0, gap_ms - draft_ms), num_sessions)

    def observe_bare(self, gap_ms: float, idle_ms: float, num_sessions: int) -> None:
        """Take a round of a session in a step without any proposal: it waited for nobody's draft."""
        if idle_ms > _STOOD_STILL_MS:
            self.bare_hop_ms = _towards(self.bare_hop_ms, max(0.0, gap_ms), num_sessions)

    def away_ms(self, draft_ms: Sequence[float]) -> Sequence[float]:
        """The time between two steps of a session, by how long its draft takes; the first is that of none."""
        return (self.bare_hop_ms, *(self.hop_ms + one for one in draft_ms[1:]))


def _towards(known: float, found: float, num_sessions: int) -> float:
    return known + (found - known) * (_FALL if found < known else _RISE / num_sessions)
