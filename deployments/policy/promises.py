"""How much of what plans promise comes true: tokens per ms, by kind of rounds and company.

A plan chooses what promises most, and so what is overrated more often than what is not. Besides, no part of the model
knows what it costs that sessions come and go, that rounds of one kind follow such of another, and that groups part.
"""

from __future__ import annotations

from dataclasses import dataclass

from deployments.policy.round_times import company

_MEMORY = 64.0
"""Cycles of a kind that are remembered."""
_STALE = 256.0
"""Cycles after which half of it is forgotten, without another one of the kind."""
_DOUBT = 8.0
"""Cycles in which plans are supposed to have kept what they promised."""
_LEAST, _MOST = 0.5, 1.25


@dataclass(slots=True)
class _Kept:
    """Fading sums over cycles of tokens that came, per token promised; `seen_at` is the cycle of the latest."""

    promised: float = 0.0
    come: float = 0.0
    cycles: float = 0.0
    seen_at: float = 0.0


class Promises:
    """Learns it from the rounds of sessions that share a verifier."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, bool], _Kept] = {}
        self._now = 0.0

    def observe(self, num_sessions: int, is_drafted: bool, num_promised: float, num_come: float) -> None:
        """Take a round of one of so many sessions, which was to commit `num_promised` tokens in the time it took."""
        weight = 1.0 / num_sessions
        self._now += weight
        known = self._kept.setdefault((company(num_sessions), is_drafted), _Kept(seen_at=self._now))
        fading = self._fading(known) * (1.0 - weight / _MEMORY)
        known.promised = fading * known.promised + weight * num_promised
        known.come = fading * known.come + weight * num_come
        known.cycles = fading * known.cycles + weight
        known.seen_at = self._now

    def kept(self, num_sessions: int, is_drafted: bool) -> float:
        """How many tokens come for one that is promised in this company."""
        known = self._kept.get((company(num_sessions), is_drafted))
        if known is None or not known.promised:
            return 1.0
        doubt = _DOUBT * known.promised / known.cycles
        fading = self._fading(known)
        share = (fading * known.come + doubt) / (fading * known.promised + doubt)
        return min(_MOST, max(_LEAST, share))

    def _fading(self, known: _Kept) -> float:
        missed = max(0.0, self._now - known.seen_at - 1.0)
        return _STALE / (_STALE + missed)
