"""What one system did with one batch of prompts, and the median of several such runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from evaluation.pocket.records import Example, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One timed run: prefill included, tokens counted as generated (the end token too, padding not).

    `num_rounds` and `num_accepted_tokens` are 0 where nothing was drafted. `overhead_ms` is the time per round that
    neither model worked, None where it was not measured.
    """

    num_tokens: int
    wall_s: float
    num_rounds: int = 0
    num_accepted_tokens: int = 0
    overhead_ms: float | None = None
    texts: tuple[str, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.wall_s

    @property
    def acceptance_length(self) -> float | None:
        """Mean tokens that a round committed, the verifier's own included; None where nothing was drafted."""
        return 1 + self.num_accepted_tokens / self.num_rounds if self.num_rounds else None


@dataclass(frozen=True, slots=True)
class Cell:
    """One place in the table."""

    task: Task
    num_streams: int
    system: str


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of repeated runs."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Summarise repeated runs; `values` must not be empty."""
    return Spread(median(values), min(values), max(values))


class System(Protocol):
    """Something that answers prompts: the endpoint in one of its settings, or a peer."""

    @property
    def name(self) -> str:
        """Column title, unique among the systems of a run."""

    @property
    def max_streams(self) -> int:
        """How many prompts it works on at once, at most; where more are asked for, it is left out."""

    def measure(self, examples: Sequence[Example], num_streams: int, max_tokens: int) -> Sample:
        """Answer every example greedily, `num_streams` at a time, and time it."""
