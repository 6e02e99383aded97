"""Auto against the best fixed lookahead and against speculation off: ratios of interleaved runs, with a lower bound.

And against the one fixed lookahead that would have been the best for everything that was swept: who sets a lookahead
by hand sets one, and not one for each load and kind of text.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import geometric_mean, mean, stdev
from typing import Any

from evaluation.load.sweep_records import Lookahead, Place, Row

_T_95 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833, 10: 1.812}
_T_95 |= {12: 1.782, 15: 1.753, 20: 1.725, 30: 1.697, 60: 1.671}
"""Student's t, one-sided 95 %, by degrees of freedom; between two the smaller number's, which is on the safe side."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """The geometric mean of paired ratios and its one-sided 95 % lower bound; None where there are too few pairs."""

    mean: float | None = None
    low: float | None = None


def ratio_of(pairs: Sequence[tuple[float, float]]) -> Ratio:
    """Of (one, other) speeds of runs that were made side by side; a pair in which one made no token is left out."""
    logs = [math.log(one / other) for one, other in pairs if one > 0 and other > 0]
    if not logs:
        return Ratio()
    if len(logs) == 1:
        return Ratio(math.exp(logs[0]), None)
    freedom = max(known for known in _T_95 if known < len(logs))
    low = mean(logs) - _T_95[freedom] * stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(mean(logs)), math.exp(low))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One place: auto over the fixed lookahead that was fastest in the calibration, and over speculation off.

    `low` are one-sided 95 % lower bounds, None with a single pair of runs.
    """

    request_class: str
    concurrency: int | None
    request_rate: float | None
    best_fixed: int
    num_pairs: int
    over_best: float | None
    over_best_low: float | None
    over_off: float | None
    over_off_low: float | None

    def as_json(self) -> dict[str, Any]:
        """The comparison as results.json has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneForAll:
    """The best single fixed lookahead for all of these places, and auto over it: geometric means of tokens/s."""

    lookahead: int
    num_places: int
    auto_over_it: float

    def as_json(self) -> dict[str, Any]:
        """As results.json has it."""
        return asdict(self)


def one_for_all(rows: Iterable[Row]) -> OneForAll | None:
    """From the calibration. Under Poisson arrivals a place has the speed of its arrivals, so that it tells nothing.

    A fixed lookahead counts that made tokens wherever auto was measured. None without one, with fewer than two
    places, or where auto made no token.
    """
    speeds: dict[Lookahead, dict[tuple[str, int], float]] = defaultdict(dict)
    for row in rows:
        if row.concurrency is not None:
            speeds[row.lookahead][row.request_class, row.concurrency] = row.output_tokens_per_s
    auto = speeds.pop("auto", {})
    if len(auto) < 2 or not all(auto.values()):
        return None
    means = {
        lookahead: geometric_mean(auto[place] / known[place] for place in auto)
        for lookahead, known in speeds.items()
        if all(known.get(place) for place in auto)
    }
    if not means:
        return None
    best = min(means, key=lambda lookahead: (means[lookahead], lookahead))
    return OneForAll(lookahead=int(best), num_places=len(auto), auto_over_it=means[best])


def best_fixed(place: Place, rows: Iterable[Row]) -> int | None:
    """The fixed lookahead that made the most tokens at this place, the smaller one of equals; None without any."""
    speeds: dict[int, float] = {}
    for row in rows:
        where = (row.request_class, row.concurrency, row.request_rate)
        if where == (place.request_class, place.load.concurrency, place.load.rate) and row.lookahead != "auto":
            speeds[row.lookahead] = row.output_tokens_per_s
    return min(speeds, key=lambda lookahead: (-speeds[lookahead], lookahead)) if speeds else None


def settings_against(best: int) -> tuple[Lookahead, ...]:
    """What runs side by side: auto, the best fixed one, and off."""
    return ("auto", best) if best == 0 else ("auto", best, 0)


def compare(place: Place, best: int, repeats: Sequence[Mapping[Lookahead, float]]) -> Comparison:
    """From the speeds of whole repeats, each of which has every setting of `settings_against`."""
    over_best = ratio_of([(speeds["auto"], speeds[best]) for speeds in repeats])
    over_off = ratio_of([(speeds["auto"], speeds[0]) for speeds in repeats])
    return Comparison(
        request_class=place.request_class,
        concurrency=place.load.concurrency,
        request_rate=place.load.rate,
        best_fixed=best,
        num_pairs=len(repeats),
        over_best=over_best.mean,
        over_best_low=over_best.low,
        over_off=over_off.mean,
        over_off_low=over_off.low,
    )
