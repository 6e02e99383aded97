"""What drafted rounds commit, beside what was expected of them.

Whoever picks the best of several estimates picks those that are too high; and a text that is easy to guess is drafted
for in more of its rounds than one that is not, so what is known of a class of texts is better than a new one of it.
"""

from __future__ import annotations

_FADING = 0.99
_DOUBT = 32.0
"""Tokens that are taken to have come as expected."""


class Gains:
    """Fading sums of expected and committed tokens of drafted rounds."""

    def __init__(self) -> None:
        self._expected = 0.0
        self._committed = 0.0

    def observe(self, expected: float, committed: int) -> None:
        """A drafted round has ended."""
        self._expected = _FADING * self._expected + expected
        self._committed = _FADING * self._committed + committed

    @property
    def factor(self) -> float:
        """Committed over expected tokens, near 1 while few rounds are known."""
        return (self._committed + _DOUBT) / (self._expected + _DOUBT)
