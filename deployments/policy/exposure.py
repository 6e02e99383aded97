"""The time of a round in which a verifier has nothing to do, because a proposal is being drafted or is under way."""

from __future__ import annotations

from collections.abc import Sequence

_FALL, _RISE = 0.2, 0.05


class Exposure:
    """Learns, for one verifier, what a round costs besides its step: hops, and what other steps hide.

    `gap_ms` of a round is the time from its verdict to the start of the step that answers it, `idle_ms` how
    long the verifier had stood still before that step, `draft_ms` the drafter's part of the gap. Hops are the
    least that a gap has besides: what is above may have been a wait in a queue.
    """

    def __init__(self) -> None:
        self.hop_ms = 1.0
        self.bare_hop_ms = 0.5
        self.hidden_ms = 0.0
        self.exposed_ms = 0.0

    def observe(self, *, gap_ms: float, idle_ms: float, draft_ms: float, was_drafted: bool) -> None:
        """Take one session's round."""
        exposed_ms = min(max(idle_ms, 0.0), gap_ms)
        if was_drafted:
            self.hidden_ms += 0.1 * (gap_ms - exposed_ms - self.hidden_ms)
            self.exposed_ms += 0.1 * (exposed_ms - self.exposed_ms)
            if exposed_ms > 0.0:
                self.hop_ms = _towards(self.hop_ms, max(0.0, gap_ms - draft_ms))
        elif exposed_ms > 0.0:
            self.bare_hop_ms = _towards(self.bare_hop_ms, exposed_ms)

    def by_cap(self, fixed_ms: float, per_token_ms: float, max_cap: int) -> Sequence[float]:
        """The exposed time of a round in which nobody drafts more than 0, 1 .. max_cap tokens."""
        ahead_ms = self.hop_ms + fixed_ms - self.hidden_ms
        drafted = (max(0.0, ahead_ms + per_token_ms * cap) for cap in range(1, max_cap + 1))
        return (self.bare_hop_ms, *drafted)


def _towards(known: float, found: float) -> float:
    return known + (found - known) * (_FALL if found < known else _RISE)
