"""A sweep of one endpoint: every lookahead at every load of every kind of text, then auto against the best of them.

    calibration: one window per cell -> rows      comparison: fresh prompts, settings in turn -> ratios

One deadline bounds all of it. What is measured when it strikes, or at Ctrl-C, stays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle
from typing import Protocol

from evaluation.client import EndpointError
from evaluation.load.sweep_client import Target
from evaluation.load.sweep_compare import Comparison, best_fixed, compare, settings_against
from evaluation.load.sweep_load import Run, Timing, measure_cell
from evaluation.load.sweep_records import MIXED, SWEEP_CLASSES, Load, Lookahead, Place, Row, Slo, summarise
from evaluation.pocket.records import Example, Task

LOOKAHEADS: tuple[Lookahead, ...] = (*range(9), "auto")
MAX_QUICK_CELLS = 20
INTERRUPTED = "interrupted"
_POOL = 256
"""Prompts of a kind; then they come again."""
_LEAST_WINDOW_S = 1.0
_TIMING, _SLO = Timing(warm_up_s=2.0, window_s=12.0, drain_s=10.0, patience_s=30.0), Slo()

Prompts = Callable[[Task, int, int], Sequence[Example]]
"""(task, count, seed) -> held-out examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """What to measure, and for how long; seconds.

    `num_repeats` are the interleaved runs of the comparison per place, 0 for none. `budget_s` bounds everything. In
    virtual time cells last by tokens, not by `timing` (sweep_virtual.py).
    """

    lookaheads: tuple[Lookahead, ...] = LOOKAHEADS
    loads: tuple[Load, ...] = (Load(1), Load(4), Load(16))
    classes: tuple[str, ...] = SWEEP_CLASSES
    max_tokens: int = 96
    timing: Timing = _TIMING
    num_repeats: int = 6
    budget_s: float = 7200.0
    slo: Slo = _SLO
    is_virtual: bool = False

    @property
    def places(self) -> list[Place]:
        return [Place(one, load) for one in self.classes for load in self.loads]

    @property
    def num_cells(self) -> int:
        return len(self.places) * len(self.lookaheads)

    @property
    def num_runs(self) -> int:
        """Cells and the most runs that the comparison may take."""
        compared = len(self.places) * self.num_repeats * 3 if self.can_compare else 0
        return self.num_cells + compared

    @property
    def can_compare(self) -> bool:
        """Whether there is something to compare auto with."""
        return self.num_repeats > 0 and "auto" in self.lookaheads and len(self.lookaheads) > 1


FULL = SweepPlan()
QUICK = SweepPlan(
    lookaheads=(0, 2, 4, 8, "auto"),
    loads=(Load(1), Load(8)),
    classes=("structured", MIXED),
    max_tokens=64,
    timing=Timing(warm_up_s=1.0, window_s=6.0, drain_s=4.0, patience_s=15.0),
    num_repeats=4,
    budget_s=540.0,
)
"""Ends within ten minutes with the stop of a server of its own, which may take one of them."""
VIRTUAL = SweepPlan(
    loads=tuple(Load(4**power) for power in range(5)),
    max_tokens=256,
    timing=Timing(warm_up_s=0.0, window_s=1.0, drain_s=0.0),
    num_repeats=0,
    is_virtual=True,
)


class Watcher(Protocol):
    """Is told how the sweep goes."""

    def begins(self, what: str) -> None:
        """A run begins."""

    def ends(self, row: Row) -> None:
        """It has ended."""


class _Silent:
    def begins(self, what: str) -> None:
        pass

    def ends(self, row: Row) -> None:
        pass


_SILENT = _Silent()


@dataclass(slots=True)
class SweepResults:
    """Everything that was measured; `why_short` says why it is less than was asked for, "" if it is not.

    `has_failed` says that this was the endpoint's fault.
    """

    rows: list[Row] = field(default_factory=list)
    repeats: list[Row] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    why_short: str = ""
    has_failed: bool = False


class OutOfTime(Exception):
    """The budget is spent."""


@dataclass(slots=True, kw_only=True)
class Sweep:
    """Measures a plan into `results`; `deadline_s` is on the clock."""

    target: Target
    plan: SweepPlan
    prompts: Prompts
    watcher: Watcher = _SILENT
    deadline_s: float = math.inf
    keep: Callable[[SweepResults], None] = lambda results: None
    clock: Callable[[], float] = time.monotonic
    measure: Callable[[Run, Load, Timing, int], tuple[float, float]] = measure_cell
    results: SweepResults = field(default_factory=SweepResults)

    def run(self) -> SweepResults:
        """All of it, or as much as time and endpoint allow; `keep` gets the results after every run.

        EndpointError if there is nothing at all.
        """
        try:
            self._warm_up()
            for place in self.plan.places:
                for lookahead in self.plan.lookaheads:
                    row = self._cell(place, lookahead, seed=0)
                    self.results.rows.append(row)
                    self.keep(self.results)
            if self.plan.can_compare:
                self._compare()
        except OutOfTime:
            self.results.why_short = f"time is up after {self.plan.budget_s:.0f} s"
        except KeyboardInterrupt:
            self.results.why_short = INTERRUPTED
        except EndpointError as error:
            if not self.results.rows:
                raise
            self.results.why_short, self.results.has_failed = str(error), True
        self.keep(self.results)
        return self.results

    def _warm_up(self) -> None:
        """The largest load once, uncounted: allocators, caches, the router's idea of costs."""
        place = max(self.plan.places, key=lambda one: one.load.concurrency or 1)
        self.watcher.begins(f"warming up with {place}")
        self._traced(place, self.plan.lookaheads[-1], seed=1_000)

    def _cell(self, place: Place, lookahead: Lookahead, seed: int) -> Row:
        self.watcher.begins(f"{place}, lookahead {lookahead}")
        run, window = self._traced(place, lookahead, seed)
        row = summarise(place, lookahead, run.traces, window, self.plan.slo)
        self.watcher.ends(row)
        return row

    def _traced(self, place: Place, lookahead: Lookahead, seed: int) -> tuple[Run, tuple[float, float]]:
        timing = self._timing()
        examples = prompt_stream(self.prompts, place.request_class, seed)
        run = Run(self.target, lookahead, examples, [])
        return run, self.measure(run, place.load, timing, seed)

    def _timing(self) -> Timing:
        """The plan's, shortened to the time that is left; OutOfTime if that is too little for a window."""
        timing, left_s = self.plan.timing, self.deadline_s - self.clock()
        if left_s < timing.warm_up_s + _LEAST_WINDOW_S:
            raise OutOfTime
        left_s -= timing.warm_up_s
        window_s = min(timing.window_s, left_s)
        # Nothing that may still meet the objective is cut.
        drain_s = max(timing.drain_s, self.plan.slo.longest_s(self.plan.max_tokens))
        drain_s = min(drain_s, left_s - window_s)
        patience_s = min(timing.patience_s, left_s - window_s - drain_s)
        return Timing(warm_up_s=timing.warm_up_s, window_s=window_s, drain_s=drain_s, patience_s=patience_s)

    def _compare(self) -> None:
        """Repeat by repeat over all places, so that a slow minute of the machine meets all of them alike."""
        chosen = [
            (place, best) for place in self.plan.places if (best := best_fixed(place, self.results.rows)) is not None
        ]
        speeds: dict[Place, list[dict[Lookahead, float]]] = {place: [] for place, _ in chosen}
        for repeat in range(self.plan.num_repeats):
            for place, best in chosen:
                order = settings_against(best)
                found: dict[Lookahead, float] = {}
                for lookahead in order if repeat % 2 == 0 else order[::-1]:
                    row = self._cell(place, lookahead, seed=1 + repeat)
                    self.results.repeats.append(row)
                    found[lookahead] = row.output_tokens_per_s
                speeds[place].append(found)
                self.results.comparisons = [compare(one, fixed, speeds[one]) for one, fixed in chosen if speeds[one]]
                self.keep(self.results)


def prompt_stream(prompts: Prompts, request_class: str, seed: int) -> Iterator[Example]:
    """Held-out prompts of a kind without end, or of all kinds in turn; the same for the same seed."""
    tasks: tuple[Task, ...] = ("structured", "code", "prose")
    kinds = [task for task in tasks if request_class in (task, MIXED)]
    pools = [prompts(task, _POOL, seed) for task in kinds]
    return cycle(chain.from_iterable(zip(*pools, strict=False)))
