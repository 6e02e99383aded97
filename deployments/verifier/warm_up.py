"""Times a few batch shapes before a verifier serves, so that its cost model does not begin with a guess."""

from __future__ import annotations

import time
from collections.abc import Callable

from deployments.messages import SamplingParams, SessionId, Token
from deployments.policy.warm_up_shapes import WarmUpShape, warm_up_shapes
from deployments.timing import StepTiming
from deployments.verifier.batching import shape_of
from deployments.verifier.engine import Chunk, VerifierEngine
from deployments.verifier.scheduler import StepBudget

_REPEATS = 3


def time_steps(
    engine: VerifierEngine,
    budget: StepBudget,
    *,
    max_lookahead: int,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[StepTiming, ...]:
    """Run shapes until `budget_s` is spent, and one step more at most; of each the fastest of a few repeats.

    The engine is as empty afterwards as before. What does not fit into it is left out.
    """
    deadline_s = clock() + budget_s
    timings = []
    for shape in warm_up_shapes(budget.max_step_tokens, max_lookahead, budget.prompt_tokens):
        if shape.step.num_sequences > budget.max_step_sessions:
            continue
        trial = _Trial(engine, shape, clock)
        try:
            if trial.open() and trial.read_contexts(budget.max_step_tokens, deadline_s):
                timings.append(trial.time())
        finally:
            trial.close()
    return tuple(timings)


class _Trial:
    """One shape on an engine. `_verified` and `_reading` are sessions with their computed lengths."""

    def __init__(self, engine: VerifierEngine, shape: WarmUpShape, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._shape = shape
        self._clock = clock
        self._verified: dict[SessionId, int] = {}
        self._reading: dict[SessionId, int] = {}

    def open(self) -> bool:
        """Open the sessions; False when there is no room for them."""
        shape = self._shape
        # Rejected or not, every repeat has room.
        if not self._open(self._verified, shape.num_sequences, shape.context + _REPEATS * (1 + shape.lookahead)):
            return False
        return not shape.num_prompt_tokens or self._open(self._reading, 1, 1 + _REPEATS * shape.num_prompt_tokens)

    def read_contexts(self, max_step_tokens: int, deadline_s: float) -> bool:
        """Put the contexts into the cache, in as few steps as may be; False when time is up before that."""
        shape = self._shape
        missing = [(session, start) for session in self._verified for start in range(0, shape.context, max_step_tokens)]
        while missing:
            chunks: list[Chunk] = []
            left = max_step_tokens
            while missing and left >= (count := min(shape.context - missing[0][1], max_step_tokens)):
                session, start = missing.pop(0)
                tokens = _tokens(self._engine, count)
                chunks.append(Chunk(session=session, start=start, tokens=tokens, is_partial=True))
                left -= count
            if self._clock() >= deadline_s:
                return False
            self._engine.step(chunks)
        self._verified = dict.fromkeys(self._verified, shape.context)
        return True

    def time(self) -> StepTiming:
        """Run the step a few times."""
        shape, best_s = self._shape, float("inf")
        for _ in range(_REPEATS):
            tokens, piece = _tokens(self._engine, 1 + shape.lookahead), _tokens(self._engine, shape.num_prompt_tokens)
            chunks = [
                Chunk(session=session, start=start, tokens=tokens, num_drafted=shape.lookahead)
                for session, start in self._verified.items()
            ]
            chunks += [
                Chunk(session=session, start=start, tokens=piece, is_partial=True)
                for session, start in self._reading.items()
            ]
            started_s = self._clock()
            outcomes = self._engine.step(chunks)
            best_s = min(best_s, self._clock() - started_s)
            for outcome in outcomes:
                self._verified[outcome.session] += 1 + outcome.num_accepted
            self._reading = {session: start + len(piece) for session, start in self._reading.items()}
        return StepTiming(shape=shape_of(chunks), step_ms=max(1e-3, best_s * 1e3))

    def close(self) -> None:
        """Free everything."""
        for session in (*self._verified, *self._reading):
            self._engine.close(session)

    def _open(self, sessions: dict[SessionId, int], count: int, num_tokens: int) -> bool:
        first = len(self._verified)
        for session in range(first, first + count):
            if not self._engine.can_open(num_tokens):
                return False
            self._engine.open(session, SamplingParams(), num_tokens)
            sessions[session] = 0
        return True


def _tokens(engine: VerifierEngine, count: int) -> tuple[Token, ...]:
    """Any tokens at all: what a step costs does not depend on them."""
    return tuple((7 + 13 * i) % engine.vocab_size for i in range(count))
