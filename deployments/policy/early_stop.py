"""Which sessions of a batch draft another token, given how likely it is that what they have drafted so far holds.

A further token can only count if all before it hold. A draft that was not worth going on with once is over: looking one
token ahead is enough as long as tokens hold about as often at one index as at the next. `kernels/draft.h` has the same
for drafts that are one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

from deployments.messages import EarlyStop
from deployments.policy.confidence import NUM_BINS, bin_of


def is_usable(early_stop: EarlyStop) -> bool:
    """Whether it has what a drafter needs, and nothing that would end the drafts of others."""
    numbers = (early_stop.value, early_stop.token_cost, early_stop.step_cost)
    return all(map(isfinite, numbers)) and len(early_stop.chances) == NUM_BINS and len(early_stop.nexts) > 0


class Drafting:
    """The sessions of one batch that still draft, by their row: lookaheads, and when to end before them."""

    def __init__(self, lookaheads: Sequence[int], early_stops: Sequence[EarlyStop | None]) -> None:
        self._lookaheads = lookaheads
        self._early_stops = early_stops
        self._may_stop = any(early_stop is not None for early_stop in early_stops)
        self._nexts = [next_chances(early_stop, max(lookaheads)) for early_stop in early_stops]
        self._survival = [1.0] * len(lookaheads)
        self.lengths = [0] * len(lookaheads)
        self.rows = [row for row, lookahead in enumerate(lookaheads) if lookahead > 0]

    @property
    def num_active(self) -> int:
        """How many rows a step has to cover: those up to the last that still drafts."""
        return self.rows[-1] + 1 if self.rows else 0

    def has_stepped(self, read: Callable[[], Sequence[float]]) -> None:
        """Every active row has got another token. `read` tells how sure the drafter was of each: it is asked only if a
        draft may end by that, as a device has to be waited for.
        """
        known = read() if self._may_stop else [1.0] * self.num_active
        self.drafted([known[row] for row in self.rows])

    def drafted(self, confidences: Sequence[float]) -> None:
        """Every row in `rows` has got another token, which its drafter was so sure of."""
        rows, self.rows = self.rows, []
        surplus, step_cost = 0.0, 0.0
        for row, confidence in zip(rows, confidences, strict=True):
            self.lengths[row] += 1
            if self.lengths[row] >= self._lookaheads[row]:
                continue
            early_stop = self._early_stops[row]
            if early_stop is None:
                surplus = float("inf")
                self.rows.append(row)
                continue
            self._survival[row] *= early_stop.chances[bin_of(confidence)] / 255.0
            in_prospect = self._survival[row] * self._nexts[row][self.lengths[row]]
            gain = early_stop.value * in_prospect - early_stop.token_cost
            if gain > 0.0:
                surplus += gain
                step_cost = max(step_cost, early_stop.step_cost)
                self.rows.append(row)
        if surplus <= step_cost:
            self.rows = []


def next_chances(early_stop: EarlyStop | None, count: int) -> list[float]:
    """How likely the token at each of the first indices holds, when nothing is known of it yet."""
    if early_stop is None:
        return [1.0] * count
    nexts = early_stop.nexts[:count]
    return [chance / 255.0 for chance in nexts] + [nexts[-1] / 255.0] * (count - len(nexts)) if count else []
