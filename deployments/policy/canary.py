"""Which drafters to leave alone for a while: bad drafts cost speed and never correctness, so only this shows them."""

from __future__ import annotations

from dataclasses import dataclass

_FADING = 0.97
_ENOUGH_ROUNDS = 24.0
_LEAST_RATE = 0.04
"""A drafter whose first tokens hold less often than this is broken: chance alone does better on most texts."""
_FIRST_BYPASS_S, _LONGEST_BYPASS_S = 5.0, 300.0


@dataclass(slots=True)
class Canary:
    """Watches one drafter's first tokens. It is bypassed when they stop to hold, and tried again later and later."""

    num_bypasses: int = 0
    _hits: float = 0.0
    _rounds: float = 0.0
    _until_s: float = 0.0
    _bypass_s: float = _FIRST_BYPASS_S

    def observe(self, is_first_held: bool) -> None:
        """Take a round with a proposal of this drafter."""
        self._hits = _FADING * self._hits + is_first_held
        self._rounds = _FADING * self._rounds + 1.0
        if self._hits > 4 * _LEAST_RATE * self._rounds and self._rounds > _ENOUGH_ROUNDS:
            self._bypass_s = _FIRST_BYPASS_S  # well again

    def trips(self, now_s: float) -> bool:
        """Whether the drafter is to be left from now on; says so once, and forgets what it has seen."""
        if self._rounds < _ENOUGH_ROUNDS or self._hits >= _LEAST_RATE * self._rounds:
            return False
        self._hits, self._rounds = 0.0, 0.0
        self._until_s = now_s + self._bypass_s
        self._bypass_s = min(2 * self._bypass_s, _LONGEST_BYPASS_S)
        self.num_bypasses += 1
        return True

    def is_bypassed(self, now_s: float) -> bool:
        """Whether no session shall be given to it now."""
        return now_s < self._until_s
