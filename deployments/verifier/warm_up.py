"""Times a few batch shapes before a verifier serves, so that its cost model does not begin with a guess."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from deployments.messages import SamplingParams, SessionId, Token
from deployments.timing import StepTiming
from deployments.verifier.batching import shape_of
from deployments.verifier.engine import Chunk, VerifierEngine

_SEQUENCES = (1, 2, 4, 8, 16, 32, 64)
_LOOKAHEADS = (0, 1, 2, 4, 8)
_PROMPT_TOKENS = 16
_REPEATS = 3


def time_steps(
    engine: VerifierEngine,
    *,
    max_step_tokens: int,
    max_lookahead: int,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[StepTiming, ...]:
    """Run shapes from small to large until `budget_s` is spent; of each the fastest of a few repeats.

    The engine is as empty afterwards as before. What does not fit into it is left out.
    """
    deadline_s = clock() + budget_s
    timings = []
    for num_sequences, lookahead in _shapes(max_step_tokens, max_lookahead):
        context = min(engine.max_context_tokens, _PROMPT_TOKENS + _REPEATS * (1 + lookahead))
        sessions: dict[SessionId, int] = {}
        try:  # rejected or not, every shape begins at the same context
            if clock() >= deadline_s or not _open(engine, sessions, num_sequences, context):
                break
            _read_prompts(engine, sessions, max_step_tokens)
            timings.append(_time(engine, sessions, lookahead, clock))
        finally:
            for session in sessions:
                engine.close(session)
    return tuple(timings)


def _shapes(max_step_tokens: int, max_lookahead: int) -> Iterator[tuple[int, int]]:
    for num_sequences in _SEQUENCES:
        for lookahead in _LOOKAHEADS:
            if lookahead <= max_lookahead and num_sequences * (1 + lookahead) <= max_step_tokens:
                yield num_sequences, lookahead


def _open(engine: VerifierEngine, sessions: dict[SessionId, int], num_sequences: int, context: int) -> bool:
    """Open so many sessions; False when there is no room for them."""
    while len(sessions) < num_sequences:
        if context <= _PROMPT_TOKENS or not engine.can_open(context):
            return False
        session = len(sessions)
        engine.open(session, SamplingParams(), context)
        sessions[session] = 0
    return True


def _read_prompts(engine: VerifierEngine, sessions: dict[SessionId, int], max_step_tokens: int) -> None:
    """Put each session's prompt into the cache, in as few steps as may be."""
    tokens = _tokens(engine, min(_PROMPT_TOKENS, max_step_tokens))
    chunks = [Chunk(session=session, start=0, tokens=tokens, is_partial=True) for session in sessions]
    num_a_step = max_step_tokens // len(tokens)
    for first in range(0, len(chunks), num_a_step):
        engine.step(chunks[first : first + num_a_step])
    sessions.update(dict.fromkeys(sessions, len(tokens)))


def _time(
    engine: VerifierEngine, sessions: dict[SessionId, int], lookahead: int, clock: Callable[[], float]
) -> StepTiming:
    best_s = float("inf")
    for _ in range(_REPEATS):
        tokens = _tokens(engine, 1 + lookahead)
        chunks = [
            Chunk(session=session, start=start, tokens=tokens, num_drafted=lookahead)
            for session, start in sessions.items()
        ]
        started_s = clock()
        outcomes = engine.step(chunks)
        best_s = min(best_s, clock() - started_s)
        for outcome in outcomes:
            sessions[outcome.session] += 1 + outcome.num_accepted
    return StepTiming(shape=shape_of(chunks), step_ms=max(1e-3, best_s * 1e3))


def _tokens(engine: VerifierEngine, count: int) -> tuple[Token, ...]:
    """Any tokens at all: what a step costs does not depend on them."""
    return tuple((7 + 13 * i) % engine.vocab_size for i in range(count))
