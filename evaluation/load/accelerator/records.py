"""What is measured, and the time that there is for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from evaluation.load.samples import Spread, spread

SECTIONS = ("hardware", "products", "library", "verifier", "drafter")
"""What a run consists of, in its order."""

WARM_UPS = 3
"""Before anything is timed: kernels are compiled, buffers grow, graphs are captured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cells: every number of sessions with every lookahead at `context`, and a few at `long_context`.

    Lookaheads come in order of their interest: all numbers of sessions are measured with the first before the second's
    turn.
    """

    sessions: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)
    lookaheads: Sequence[int] = (4, 0, 8, 2)
    draft_lookaheads: Sequence[int] = (4, 1, 8)
    long_sessions: Sequence[int] = (1, 8)
    long_lookaheads: Sequence[int] = (4,)
    context: int = 512
    short_context: int = 128
    long_context: int = 4096
    prompt_chunks: Sequence[int] = (128, 256, 512, 1024)
    repeats: int = 10

    @property
    def prompt_tokens(self) -> int:
        """Tokens of a chunk in which contexts are read."""
        return min(512, self.context)


@dataclass(slots=True)
class Budget:
    """Seconds for everything; nothing begins when they are spent."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _started_s: float = field(init=False)

    def __post_init__(self) -> None:
        self._started_s = self.clock()

    @property
    def left_s(self) -> float:
        return self.seconds - (self.clock() - self._started_s)

    @property
    def is_spent(self) -> bool:
        return self.left_s <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """A verify step, beside the products alone on as many rows and the least time that reading the weights takes."""

    sessions: int
    lookahead: int
    context: int
    step_ms: Spread
    products_ms: float | None
    floor_ms: float | None

    @property
    def num_tokens(self) -> int:
        return self.sessions * (1 + self.lookahead)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """A chunk of a prompt, first in its context."""

    num_tokens: int
    chunk_ms: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class LibraryRow:
    """The same step through the library's model, one session."""

    lookahead: int
    context: int
    step_ms: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftRow:
    """A batch of drafts, beside the least time that reading the assistant once per drafted token takes."""

    sessions: int
    lookahead: int
    context: int
    draft_ms: Spread
    floor_ms: float | None


def measured(work_ms: Callable[[], float], repeats: int) -> Spread:
    """Run what times itself, a few times for nothing, then `repeats` times."""
    for _ in range(WARM_UPS):
        work_ms()
    return spread([work_ms() for _ in range(repeats)])
