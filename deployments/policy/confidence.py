"""What a drafter's confidence in a token is worth: how often tokens hold that it was as sure of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

CONFIDENCE_EDGES = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99)
"""Confidences are told apart by these: one bin below the first, one from each on."""
NUM_BINS = len(CONFIDENCE_EDGES) + 1
_DOUBT = 4.0
_USUAL = (0.3, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97, 0.99)
"""What is assumed of each bin, and how many tokens that assumption is worth."""
_FADING = 0.998
_USUAL_NEXT = 0.8
_REACH_DOUBT = 4.0
"""Misses, and tokens drafted behind one, that are supposed to have been seen."""


class Calibration:
    """Fading counts of tokens that held and of those that did not, by the confidence that the drafter had in them.

    It is of the tokens alone: in a text that is easy to foresee, confidence is high, and says so by itself.
    """

    __slots__ = ("_bytes", "_chances", "_held", "_held_at", "_nexts", "_seen", "_seen_at")

    def __init__(self) -> None:
        self._held = [_DOUBT * usual for usual in _USUAL]
        self._seen = [_DOUBT] * NUM_BINS
        self._chances = list(_USUAL)
        self._bytes, self._nexts = b"", b""
        self._held_at: list[float] = []
        self._seen_at: list[float] = []

    def observe(self, confidences: Sequence[float], num_held: int) -> None:
        """Take a proposal's first tokens, all that were decided: so many held, and at most the last one did not."""
        for j, confidence in enumerate(confidences):
            index = bin_of(confidence)
            self._held[index] = _FADING * self._held[index] + (j < num_held)
            self._seen[index] = _FADING * self._seen[index] + 1.0
            self._chances[index] = self._held[index] / self._seen[index]
            if j == len(self._seen_at):
                self._held_at.append(_DOUBT * _USUAL_NEXT)
                self._seen_at.append(_DOUBT)
            self._held_at[j] = _FADING * self._held_at[j] + (j < num_held)
            self._seen_at[j] = _FADING * self._seen_at[j] + 1.0
        self._bytes, self._nexts = b"", b""

    def rate(self, index: int) -> float:
        """How likely the token at this index of a draft holds if it is drafted and those before it hold."""
        return self._held_at[index] / self._seen_at[index] if index < len(self._seen_at) else _USUAL_NEXT

    def nexts(self, limit: int) -> bytes:
        """The same of every index, in 255ths."""
        if len(self._nexts) != limit:
            self._nexts = bytes(round(255.0 * self.rate(index)) for index in range(limit))
        return self._nexts

    def chances(self, confidences: Sequence[float]) -> list[float]:
        """How likely each token holds if those before it do."""
        return [self._chances[bin_of(confidence)] for confidence in confidences]

    def as_bytes(self) -> bytes:
        """By bin, in 255ths."""
        if not self._bytes:
            self._bytes = bytes(round(255.0 * chance) for chance in self._chances)
        return self._bytes


class Reach:
    """How far drafts go that may end early: where none does, every position is drafted.

    A draft ends while all of it holds, or behind a token that does not, or goes on behind that for nothing.
    """

    __slots__ = ("_cut", "_ended", "_missed", "_went_on", "has_ended_early")

    def __init__(self) -> None:
        self._cut, self._missed = 0.0, _REACH_DOUBT
        self._ended, self._went_on = 0.0, _REACH_DOUBT
        self.has_ended_early = False

    def observe(self, num_asked: int, num_drafted: int, num_looked_at: int, num_held: int) -> None:
        """Take a draft that might have ended early: of the tokens that were looked at so many held.

        Tokens that are left out before they are looked at are as good as not drafted, but do not say that its drafter
        can end early.
        """
        self.has_ended_early = self.has_ended_early or num_drafted < num_asked
        is_missed, has_ended = num_held < num_looked_at, num_looked_at < num_asked
        self._cut = _FADING * self._cut + (has_ended and not is_missed)
        self._missed = _FADING * self._missed + is_missed
        self._ended = _FADING * self._ended + (has_ended and is_missed)
        self._went_on = _FADING * self._went_on + max(0, num_looked_at - num_held - 1)

    def drafted(self, survival: Sequence[float]) -> list[float]:
        """How likely each position is drafted, by the chance that it counts in the end; () for all of them."""
        if not self.has_ended_early:
            return []
        cut = self._cut / (self._cut + self._missed)
        goes_on = self._went_on / (self._went_on + self._ended)
        shares, holding, behind = [], 1.0, 0.0
        for chance in survival:
            lost = holding - chance
            shares.append(holding - cut * lost + behind)
            behind = goes_on * (behind + (1.0 - cut) * lost)
            holding = chance
        return shares


def bin_of(confidence: float) -> int:
    """The bin of a confidence."""
    return bisect_right(CONFIDENCE_EDGES, confidence)
