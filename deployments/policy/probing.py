"""When to try what the plan says does not pay: evidence costs speed, and so much may it cost."""

from __future__ import annotations

from collections.abc import Sequence

_SPENT = 0.002
"""The share of all tokens that probes may cost, where much is known of what they try."""
_LITTLE_KNOWN = 6.0
"""Cycles of a kind; while fewer than these were seen, its probes may cost more."""
_LEAST_CYCLES, _MOST_CYCLES = 48.0, 2048.0
"""Cycles of all sessions between two probes."""
_LOOK_EVERY_CYCLES = 12.0
_FIRST_AFTER_CYCLES = 4.0
_FRESH_CYCLES = 8.0
_SETTLED_CYCLES = 32.0
"""Cycles after which the plan has settled in a kind of rounds."""
_ENOUGH_CYCLES = 3.0
"""Cycles of a kind that have to be seen in a company, whatever the model says."""
_PROBE_ROUNDS, _PROBE_ROUNDS_TOGETHER = 3, 6
"""Rounds of a probe, of a session alone and among others. The first is of neither kind, as what the drafter has missed
is made up for; among others the next are not either, until all have come to it.
"""


class Probing:
    """Counts cycles of all sessions since the other kind of rounds was tried."""

    def __init__(self) -> None:
        self._since = 0.0
        self._since_change = _SETTLED_CYCLES
        self._next = _LEAST_CYCLES
        self._company = -1
        self._since_company = 0.0
        self.num_probes = 0

    def passed(self, num_cycles: float, company: int) -> None:
        """So many cycles have gone by, in this company."""
        self._since += num_cycles
        self._since_change += num_cycles
        self._since_company = num_cycles + (self._since_company if company == self._company else 0.0)
        self._company = company

    @property
    def may_be_due(self) -> bool:
        """Whether it is time to find out what a probe would cost."""
        return self._since >= self._next

    def is_untried(self, num_seen: float) -> bool:
        """Whether a kind of which so many cycles were seen has to be tried by everybody now.

        Not while sessions come and go: a company that does not last is not worth knowing.
        """
        return num_seen < _ENOUGH_CYCLES and min(self._since, self._since_company) >= _FIRST_AFTER_CYCLES

    def is_due(self, plan_rate: float, probe_rate: float, num_cycles: float, num_seen: float) -> bool:
        """Whether enough time has gone by to run so many of the plan's cycles at the rate of a probe."""
        lost_cycles = num_cycles * max(0.0, 1.0 - probe_rate / plan_rate)
        spent = _SPENT * (1.0 + _LITTLE_KNOWN / max(1.0, num_seen))
        self._next = self._since + _LOOK_EVERY_CYCLES  # rates change: what is too dear now may not be so then
        return self._since >= min(_MOST_CYCLES, max(_LEAST_CYCLES, lost_cycles / spent))

    def begins(self) -> None:
        """A probe begins."""
        self._begin_anew()
        self.num_probes += 1

    def changes(self) -> None:
        """The plan itself goes over to the other kind: what would be tried now has just been run."""
        self._begin_anew()
        self._since_change = 0.0

    def _begin_anew(self) -> None:
        self._since, self._next = 0.0, _LEAST_CYCLES

    @property
    def has_settled(self) -> bool:
        """Whether the plan has had its kind for a while, whatever was tried meanwhile."""
        return self._since_change >= _SETTLED_CYCLES

    @property
    def is_fresh(self) -> bool:
        """Whether a kind has only just begun, on a promise: its first rounds say what it is worth."""
        return self._since < _FRESH_CYCLES


def of_the_longest_off(rounds_off: Sequence[int], lookaheads: Sequence[int]) -> tuple[int, ...]:
    """The same lookaheads, for one in eight of the sessions alone: those that have not been drafted for the longest."""
    order = sorted((i for i, _ in enumerate(rounds_off) if lookaheads[i]), key=lambda i: -rounds_off[i])
    few = set(order[: max(1, len(rounds_off) // 8)])
    return tuple(lookahead if i in few else 0 for i, lookahead in enumerate(lookaheads))


def probe_rounds(num_sessions: int) -> int:
    """How many rounds a probe takes."""
    return _PROBE_ROUNDS if num_sessions == 1 else _PROBE_ROUNDS_TOGETHER
