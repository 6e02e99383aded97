"""Which drafters to leave alone for a while: bad drafts cost speed and never correctness, so only this shows them."""

from __future__ import annotations

from dataclasses import dataclass

_FADING = 0.97
_ENOUGH_ROUNDS = 24.0
_LEAST_RATE = 0.04
"""A drafter whose first tokens hold less often than this is broken: chance alone does better on most texts."""
_MOST_OF_ONE_SESSION = 24
"""Rounds without a hit that count of one session in a row. There are answers that no drafter foresees for long; a
session looks less far ahead then by itself, and another one has to miss as well before the drafter is at fault.
"""
_FIRST_BYPASS_S, _LONGEST_BYPASS_S = 5.0, 300.0
_LONGEST_TRIAL_S = 60.0
"""A trial of which nothing has been heard for so long is over, and everybody tries."""

Watched = tuple[str, str]
"""(drafter, request class)."""


@dataclass(slots=True)
class Canary:
    """Watches the first tokens that one drafter drafts for one class of requests.

    When they stop to hold it is bypassed, then tried again with a single session, later and later until it is well.
    """

    num_bypasses: int = 0
    _hits: float = 0.0
    _rounds: float = 0.0
    _until_s: float = 0.0
    _bypass_s: float = _FIRST_BYPASS_S
    _is_on_trial: bool = False

    def observe(self, is_first_held: bool, num_missed: int) -> None:
        """Take a round with a proposal of this drafter, of a session that it has missed so often in a row by now."""
        if num_missed > _MOST_OF_ONE_SESSION and not self._is_on_trial:  # a trial has no second session
            return
        self._hits = _FADING * self._hits + is_first_held
        self._rounds = _FADING * self._rounds + 1.0
        if self._hits > 4 * _LEAST_RATE * self._rounds and self._rounds > _ENOUGH_ROUNDS:
            self._bypass_s, self._is_on_trial = _FIRST_BYPASS_S, False  # well again

    def trips(self, now_s: float) -> bool:
        """Whether the drafter is to be left from now on; says so once, and forgets what it has seen."""
        if self._rounds < _ENOUGH_ROUNDS or self._hits >= _LEAST_RATE * self._rounds:
            return False
        self._hits, self._rounds, self._is_on_trial = 0.0, 0.0, True
        self._until_s = now_s + self._bypass_s
        self._bypass_s = min(2 * self._bypass_s, _LONGEST_BYPASS_S)
        self.num_bypasses += 1
        return True

    def admits(self, now_s: float, num_attached: int) -> bool:
        """Whether one more session may be given to it now, which has so many of this class."""
        if now_s < self._until_s:
            return False
        return not self._is_on_trial or num_attached == 0 or now_s >= self._until_s + _LONGEST_TRIAL_S


class Canaries:
    """A canary for each drafter and request class. Time goes on with `check`."""

    def __init__(self) -> None:
        self._watched: dict[Watched, Canary] = {}
        self._now_s = 0.0

    def observe(self, drafter: str, request_class: str, is_first_held: bool, num_missed: int) -> None:
        """Take a round of a session of this class, which this drafter has missed so often in a row by now."""
        self._watched.setdefault((drafter, request_class), Canary()).observe(is_first_held, num_missed)

    def check(self, now_s: float) -> list[Watched]:
        """Who is to be left from now on, each said once."""
        self._now_s = now_s
        return [watched for watched, canary in self._watched.items() if canary.trips(now_s)]

    def admits(self, drafter: str, request_class: str, num_attached: int) -> bool:
        """Whether one more session of this class may be given to this drafter, which has so many of them."""
        canary = self._watched.get((drafter, request_class))
        return canary is None or canary.admits(self._now_s, num_attached)

    def forget(self, drafter: str) -> None:
        """The drafter is gone."""
        for watched in [one for one in self._watched if one[0] == drafter]:
            del self._watched[watched]
