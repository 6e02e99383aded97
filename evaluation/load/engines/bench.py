"""The bench of engines: a calibration that finds each system's best lookahead, then fresh interleaved runs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from evaluation.load.engines.fleet import Tokens, can_run
from evaluation.load.engines.records import OUTRIDER, Cell, EnginePlan, Run, Setting
from evaluation.load.engines.worker_process import WorkerError
from evaluation.pocket.records import Task

Prompts = Callable[[Task, int, int, int], Sequence[Tokens]]
"""(task, number of tokens, count, seed) -> prompts."""

CALIBRATION_SEED = 0
WARM_UP_TOKENS = 8


class Engines(Protocol):
    """What `Fleet` offers; tests stand in for it."""

    @property
    def settings(self) -> Sequence[Setting]:
        """Everything that can be measured."""

    def run(self, setting: Setting, prompts: Sequence[Tokens], num_streams: int, max_tokens: int) -> Run:
        """One timed run."""


@dataclass(slots=True)
class Results:
    """Calibration runs (one per cell and setting) and measured runs (several), and whether time ran out.

    `left_out` says of a peer that cannot serve a pair why, by (pair, system).
    """

    calibration: dict[tuple[Cell, Setting], Run] = field(default_factory=dict)
    measured: dict[tuple[Cell, Setting], list[Run]] = field(default_factory=lambda: defaultdict(list))
    left_out: dict[tuple[str, str], str] = field(default_factory=dict)
    is_cut_short: bool = False


class OutOfTime(Exception):
    """The budget is spent; what has been measured stands."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """Measures one pair after another into `results`."""

    plan: EnginePlan
    prompts: Prompts
    progress: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    results: Results = field(default_factory=Results)

    def measure(self, pair: str, engines: Engines, deadline_s: float) -> None:
        """Calibrate and measure every cell of a pair; no run begins after `deadline_s` on the clock."""
        cells = list(self._cells(pair))
        try:
            settings = self._warm_up(pair, engines, deadline_s)
            for cell in cells:
                self._calibrate(cell, engines, settings, deadline_s)
            for repeat in range(self.plan.num_repeats):
                for cell in cells:
                    self._repeat(cell, engines, repeat, deadline_s)
        except OutOfTime:
            self.results.is_cut_short = True
            self.progress(f"time is up for {pair}")

    def _cells(self, pair: str) -> Iterator[Cell]:
        for num_prompt_tokens in self.plan.prompt_tokens:
            for num_streams in self.plan.num_prompts:
                for task in self.plan.tasks:
                    yield Cell(pair, task, num_streams, num_prompt_tokens)

    def _warm_up(self, pair: str, engines: Engines, deadline_s: float) -> list[Setting]:
        """Show every system the batch sizes once: allocators, caches, lazily built kernels. Returns what can run."""
        able: list[Setting] = []
        for setting in engines.settings:
            self.progress(f"warming up {setting.name}")
            try:
                self._run_once(setting, engines, deadline_s)
                able.append(setting)
            except WorkerError as error:
                if setting.system == OUTRIDER:
                    raise
                reason = str(error).partition("\n")[0].partition(". ")[0]
                self.results.left_out[pair, setting.system] = reason
                self.progress(f"{setting.name} is left out: {reason}")
        return able

    def _run_once(self, setting: Setting, engines: Engines, deadline_s: float) -> None:
        for num_streams in self.plan.num_prompts:
            if can_run(setting, num_streams):
                self._check_time(deadline_s)
                prompts = self.prompts(self.plan.tasks[0], self.plan.prompt_tokens[0], num_streams, CALIBRATION_SEED)
                engines.run(setting, prompts, num_streams, WARM_UP_TOKENS)

    def _calibrate(self, cell: Cell, engines: Engines, settings: Sequence[Setting], deadline_s: float) -> None:
        prompts = self._prompts(cell, CALIBRATION_SEED)
        for setting in [s for s in settings if can_run(s, cell.num_streams)]:
            self._check_time(deadline_s)
            run = engines.run(setting, prompts, cell.num_streams, self.plan.max_tokens)
            self.results.calibration[cell, setting] = run
            self.progress(f"[calibration] {describe(cell, setting, run)}")

    def _repeat(self, cell: Cell, engines: Engines, repeat: int, deadline_s: float) -> None:
        """The best of each system in turn, on prompts of this repeat's own; every other repeat goes backwards."""
        prompts = self._prompts(cell, 1 + repeat)
        chosen = best_settings(cell, self.results.calibration)
        for setting in chosen if repeat % 2 == 0 else chosen[::-1]:
            self._check_time(deadline_s)
            run = engines.run(setting, prompts, cell.num_streams, self.plan.max_tokens)
            self.results.measured[cell, setting].append(run)
            self.progress(f"[{repeat + 1}/{self.plan.num_repeats}] {describe(cell, setting, run)}")

    def _prompts(self, cell: Cell, seed: int) -> Sequence[Tokens]:
        return self.prompts(cell.task, cell.num_prompt_tokens, self.plan.num_prompts[cell.num_streams], seed)

    def _check_time(self, deadline_s: float) -> None:
        if self.clock() >= deadline_s:
            raise OutOfTime


def best_settings(cell: Cell, calibration: Mapping[tuple[Cell, Setting], Run]) -> list[Setting]:
    """Of each system, drafting off and its fastest lookahead in the calibration."""
    speeds = {setting: run.tokens_per_s for (other, setting), run in calibration.items() if other == cell}
    chosen: list[Setting] = []
    for system in dict.fromkeys(setting.system for setting in speeds):
        plain = Setting(system, 0)
        drafting = [setting for setting in speeds if setting.system == system and setting.lookahead]
        chosen += [plain] if plain in speeds else []
        chosen += [max(drafting, key=lambda setting: speeds[setting])] if drafting else []
    return chosen


def describe(cell: Cell, setting: Setting, run: Run) -> str:
    length = run.acceptance_length
    accepted = "" if length is None else f", acceptance length {length:.2f}"
    return f"{cell.name} {setting.name}: {run.tokens_per_s:.0f} tokens/s{accepted}"
