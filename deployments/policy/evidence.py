"""What held against what was to be expected, as odds: how much a circumstance (how far an answer has come) makes of a
rate that knows nothing of it."""

from __future__ import annotations

from operator import add

_FADING = 0.998


class Evidence:
    """Fading counts of drafted tokens seen in one circumstance.

    Until they are many, `odds` is what was assumed; it is worth `doubt` tokens that hold at the rate `usual`.
    """

    __slots__ = ("_assumed", "_counts", "_odds")

    def __init__(self, assumed_odds: float, doubt: float, usual: float) -> None:
        held = doubt * adjusted(usual, assumed_odds)
        self._assumed = (held, doubt - held, doubt * usual, doubt * (1.0 - usual))
        self._counts = (0.0, 0.0, 0.0, 0.0)
        self._odds: float | None = None

    def count(self, num_held: int, num_missed: int, expected_held: float, weight: float = 1.0) -> None:
        """Take some tokens: how many held, how many did not, and how many were expected to."""
        num_tokens = num_held + num_missed
        fading = _FADING ** (weight * num_tokens)
        held, missed, known_held, known_missed = self._counts
        self._counts = (
            fading * held + weight * num_held,
            fading * missed + weight * num_missed,
            fading * known_held + weight * expected_held,
            fading * known_missed + weight * (num_tokens - expected_held),
        )
        self._odds = None

    @property
    def odds(self) -> float:
        """How many times the odds are what was to be expected."""
        if self._odds is None:
            held, missed, expected_held, expected_missed = map(add, self._counts, self._assumed)
            self._odds = held * expected_missed / (missed * expected_held)
        return self._odds


def adjusted(rate: float, odds: float) -> float:
    """The rate when its odds are so many times as high."""
    return odds * rate / (1.0 + (odds - 1.0) * rate)
