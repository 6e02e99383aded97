"""A sweep's cell in virtual time: the served policies on a named pair's cost tables, and no endpoint at all.

A cell lasts until so many tokens have come, since a slow pair would need long windows for as many. Its times are those
of the model's work and the hops: HTTP, tokenising and the roles' own code are no part of them.
"""

from __future__ import annotations

from autoscaling.simulator.events import EventQueue
from autoscaling.simulator.roles import Drafter, Verifier
from autoscaling.simulator.router import Request, Router
from autoscaling.simulator.text import Text, conditional, profiles
from deployments.messages import RequestClass
from deployments.policy.hardware import Pair
from deployments.policy.speculation import SpeculationSettings
from evaluation.load.sweep_load import Run, Timing, arrivals
from evaluation.load.sweep_records import Load, Trace
from evaluation.pocket.records import Example, Task, ask

TOKENS_PER_STREAM, LEAST_TOKENS = 200, 8_000
"""A warm-up and a window have so many."""
_DRAIN_WINDOWS = 3
"""A drain ends after so many windows' tokens at the latest: an overloaded pair would take for ever."""
_JITTER = 0.02
_MAX_SESSIONS = 1024
"""Under Poisson arrivals: further requests are refused."""
_CLASSES: dict[Task, RequestClass] = {"structured": "structured", "code": "code", "prose": "prose"}


def texts(task: Task, count: int, seed: int) -> list[Example]:
    """Prompts without words: a text is a profile here, and differs by its seed."""
    return [ask(task, "", "")]


class VirtualPair:
    """Takes the place of an endpoint; `measure` is a sweep's. Answers are a quarter to the whole of `max_tokens`."""

    def __init__(self, pair: Pair, max_tokens: int) -> None:
        self.pair = pair
        self.max_tokens = max_tokens

    def measure(self, run: Run, load: Load, timing: Timing, seed: int) -> tuple[float, float]:
        """Run a cell; returns its window in virtual seconds, and leaves its requests in `run.traces`."""
        return _Cell(self, run, load, seed).measure()


class _Cell:
    def __init__(self, virtual: VirtualPair, run: Run, load: Load, seed: int) -> None:
        self._pair, self._max_tokens = virtual.pair, virtual.max_tokens
        self._run, self._load, self._seed = run, load, seed
        self._events = EventQueue()
        verifier = Verifier(self._events, self._pair, jitter=_JITTER, seed=seed)
        drafter = Drafter(self._events, self._pair.draft)
        self._router = Router(self._events, [verifier], [drafter], SpeculationSettings(), self._pair.hop_ms)
        self._rates = {name: conditional(profile) for name, profile in profiles().items()}
        self._arrivals = arrivals(load.rate, 0.0, seed) if load.rate is not None else None
        self._num_running = 0

    @property
    def _now_s(self) -> float:
        return self._events.now_ms / 1e3

    def measure(self) -> tuple[float, float]:
        goal = max(LEAST_TOKENS, TOKENS_PER_STREAM * (self._load.concurrency or 0))
        if self._arrivals is None:
            for _ in range(self._load.concurrency or 1):
                self._ask()
        else:
            self._arrive_next()
        self._run_tokens(goal)
        start_s = self._now_s
        self._run_tokens(goal)
        stop_s = self._now_s
        due = self._run.due_in(start_s, stop_s)
        last = self._router.tally.num_tokens + _DRAIN_WINDOWS * goal
        self._events.run_until(lambda: all(trace.is_over for trace in due) or self._router.tally.num_tokens >= last)
        for trace in self._run.traces:
            if not trace.is_over:
                trace.cut_s = self._now_s
        return start_s, stop_s

    def _run_tokens(self, count: int) -> None:
        goal = self._router.tally.num_tokens + count
        self._events.run_until(lambda: self._router.tally.num_tokens >= goal)

    def _arrive_next(self) -> None:
        assert self._arrivals is not None

        def arrive() -> None:
            self._ask()
            self._arrive_next()

        self._events.after(1e3 * next(self._arrivals) - self._events.now_ms, arrive)

    def _ask(self) -> None:
        trace, example = Trace(self._now_s), next(self._run.examples)
        self._run.traces.append(trace)
        if self._num_running >= _MAX_SESSIONS:
            trace.has_failed = True
            return
        self._num_running += 1
        number, request_class = len(self._run.traces), _CLASSES[example.task]
        length = max(8, self._max_tokens * (1 + (number * 7 + self._seed) % 4) // 4)

        def on_round(position: int, num_drafted: int, num_held: int) -> None:
            trace.take(self._now_s, True, position)
            if num_drafted:
                trace.num_rounds += 1
                trace.num_accepted_tokens += num_held

        def on_end() -> None:
            trace.is_done = True
            self._num_running -= 1
            if self._arrivals is None:
                self._ask()

        self._router.start(
            Request(
                text=Text([(length, self._rates[request_class])], self._seed * 1_000_003 + number),
                num_prompt_tokens=64,
                request_class=request_class,
                num_speculative_tokens=None if self._run.lookahead == "auto" else self._run.lookahead,
                on_end=on_end,
                on_round=on_round,
            )
        )
