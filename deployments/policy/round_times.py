"""How long rounds really take, beside what the cost model says of them: evidence that wins over the model.

The model adds up a step, drafts and hops. What it does not know (roles that compete for a machine, messages
that others' messages hold up, waits of the verifier) shows in the time from one verdict to the next.
"""

from __future__ import annotations

from dataclasses import dataclass

_MEMORY = 24.0
"""Cycles of all sessions that a factor remembers."""
_DOUBT = 0.5
"""Cycles' worth of doubt about a factor: with one cycle seen two thirds of it are believed."""
_STALE = 8.0
"""Cycles without a round of a kind that take half of the weight from what was known of it."""
_FEW_CYCLES = 4.0
_FIRST_JUMP, _JUMP, _RARE_JUMP, _DROP = 3.0, 1.5, 1.25, 4.0
"""A round that takes this many times longer or shorter than was to be expected counts as one that does just that: the
very first, those of a kind that runs, those that are rare. Longer is often a hiccup of the machine, shorter never is.
"""


@dataclass(slots=True)
class _Known:
    factor: float
    cycles: float
    seen_at: float
    total: float = 0.0


class RoundTimes:
    """Measured over modelled round times, by company and kind.

    Company is the number of sessions on the verifier, in powers of two; of the two kinds of rounds some wait for
    drafts and the others, bare ones, do not. Both are seen at different times, one of them by probes alone, and a
    machine changes: what was not seen for a while gives way soon to what is seen now.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, bool], _Known] = {}
        self._now = 0.0

    def observe(self, num_sessions: int, is_drafted: bool, modelled_ms: float, measured_ms: float) -> None:
        """Take one session's round."""
        key, weight = (company(num_sessions), is_drafted), 1.0 / num_sessions
        self._now += weight
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known(self.factor(num_sessions, is_drafted), 0.0, self._now)
        missed = max(0.0, self._now - known.seen_at - 1.0)
        cycles = known.cycles * _STALE / (_STALE + missed)
        jump = _FIRST_JUMP if not known.total else _RARE_JUMP if cycles < _FEW_CYCLES else _JUMP
        found = min(jump * known.factor, max(known.factor / _DROP, measured_ms / modelled_ms))
        cycles = min(cycles + weight, _MEMORY)
        known.factor += (found - known.factor) * weight / (cycles + _DOUBT)
        known.cycles, known.seen_at, known.total = cycles, self._now, known.total + weight

    def factor(self, num_sessions: int, is_drafted: bool) -> float:
        """How many times longer than modelled rounds take in this company, or in the nearest that is known."""
        key = (company(num_sessions), is_drafted)
        if key not in self._known:
            near = [one for one in self._known if one[1] == is_drafted]
            key = min(near, key=lambda one: abs(one[0] - key[0]), default=key)
        return self._known[key].factor if key in self._known else 1.0

    def num_cycles(self, num_sessions: int, is_drafted: bool) -> float:
        """How many cycles of all sessions have shown rounds of this kind in this company."""
        known = self._known.get((company(num_sessions), is_drafted))
        return 0.0 if known is None else known.total


def company(num_sessions: int) -> int:
    """0 for a session alone, 1 for two, 2 for up to four, 3 for up to eight ..."""
    return max(0, num_sessions - 1).bit_length()
