"""What is asked of an engine, what it answers, and what a run of the bench is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from evaluation.pocket.records import Task

OUTRIDER, HF, HF_ASSISTED, HF_CONTINUOUS, VLLM = "outrider", "hf", "hf-assisted", "hf-continuous", "vllm"
SYSTEMS = (OUTRIDER, VLLM, HF, HF_ASSISTED, HF_CONTINUOUS)
POCKET, INFLATED = "pocket", "inflated"
PAIRS = (POCKET, INFLATED)


@dataclass(frozen=True, slots=True)
class Setting:
    """One system with one lookahead; 0 drafts nothing."""

    system: str
    lookahead: int

    @property
    def name(self) -> str:
        return f"{self.system} k={self.lookahead}" if self.lookahead else f"{self.system} plain"


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the table."""

    pair: str
    task: Task
    num_streams: int
    num_prompt_tokens: int

    @property
    def name(self) -> str:
        return f"{self.pair} {self.task} x{self.num_streams} of {self.num_prompt_tokens}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One timed run: prefill included, tokens counted as generated (the end token too).

    A step is one pass of the engine, drafting included. `num_rounds` counts passes over a proposal, one per session.
    """

    outputs: tuple[tuple[int, ...], ...]
    wall_s: float
    step_ms: tuple[float, ...]
    num_rounds: int = 0
    num_accepted: int = 0

    @property
    def tokens_per_s(self) -> float:
        return sum(map(len, self.outputs)) / self.wall_s

    @property
    def step_ms_p50(self) -> float | None:
        return median(self.step_ms) if self.step_ms else None

    @property
    def acceptance_length(self) -> float | None:
        """Mean tokens that a round committed, the verifier's own included; None where nothing was drafted."""
        return 1 + self.num_accepted / self.num_rounds if self.num_rounds else None


def run_from_answer(answer: Mapping[str, Any]) -> Run:
    """Read a worker's answer; KeyError or TypeError when it is none."""
    return Run(
        outputs=tuple(tuple(output) for output in answer["outputs"]),
        wall_s=float(answer["wall_s"]),
        step_ms=tuple(answer["step_ms"]),
        num_rounds=int(answer["num_rounds"]),
        num_accepted=int(answer["num_accepted"]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePlan:
    """How much to measure. `num_prompts` maps a number of streams to the prompts answered per run.

    Every lookahead is tried once per cell in a calibration; each system's best then runs `num_repeats` times on fresh
    prompts, beside drafting off. No run starts once `budget_s` is spent; pairs get equal shares of it.
    """

    num_repeats: int
    max_tokens: int
    num_prompts: Mapping[int, int]
    prompt_tokens: Sequence[int]
    lookaheads: Sequence[int]
    vllm_lookaheads: Sequence[int]
    tasks: Sequence[Task] = ("structured", "code", "prose")
    budget_s: float = 4 * 3600.0


FULL = EnginePlan(
    num_repeats=3,
    max_tokens=64,
    num_prompts={1: 3, 4: 8, 16: 16},
    prompt_tokens=(64, 1024),
    lookaheads=(1, 2, 3, 4, 5, 7),
    vllm_lookaheads=(1, 3, 5),
)
QUICK = EnginePlan(
    num_repeats=1,
    max_tokens=32,
    num_prompts={1: 2, 4: 4},
    prompt_tokens=(64,),
    lookaheads=(2, 4),
    vllm_lookaheads=(3,),
    budget_s=270.0,
)
