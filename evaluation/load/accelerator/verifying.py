"""What a verify step takes for so many sessions, lookaheads and contexts, as far as they fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from deployments.models.loading import Target
from deployments.paged.footprint import num_own_layers
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from evaluation.load.accelerator.records import Budget, Plan, PromptRow, StepRow, measured
from evaluation.load.engine_step import ROOM, Steps

BLOCK_SIZE = 16
_PROMPT_SESSION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What a step is compared with: the products alone by rows, and the time to read what it must.

    That is the weights for so many tokens and so many bytes of the cache; `session_bytes` are those that a session of a
    context reads.
    """

    products_ms: Mapping[int, float]
    floor_ms: Callable[[int, int], float | None]
    session_bytes: Callable[[int], int]


def entry_bytes(target: Target) -> int:
    """Bytes of one token's keys and values in all layers."""
    shapes = [target.kv_shape(layer) for layer in range(num_own_layers(target.text_config))]
    itemsize: int = target.model.dtype.itemsize
    return sum(2 * heads * dim for heads, dim in shapes) * itemsize


def session_bytes(target: Target) -> Callable[[int], int]:
    """Bytes of keys and values that a step reads for one session of a context; of sliding layers a window at most."""
    config, itemsize = target.text_config, target.model.dtype.itemsize
    layers = []
    for index, kind in enumerate(config.layer_types):
        source = index
        while source >= num_own_layers(config) or config.layer_types[source] != kind:  # whose entries it shares
            source -= 1
        heads, dim = target.kv_shape(source)
        layers.append((2 * heads * dim * itemsize, config.sliding_window if kind == "sliding_attention" else None))
    return lambda context: sum(size * (context if window is None else min(context, window)) for size, window in layers)


def cache_limits(target: Target, plan: Plan, free_bytes: int | None) -> CacheLimits:
    """Room for the plan's largest cells, or for as much of them as the free memory holds (None: all of it)."""
    wanted = max(
        max(plan.sessions) * _room(plan.context),
        max(plan.long_sessions) * _room(plan.long_context),
        _room(max(plan.prompt_chunks)),
    )
    num_kv_tokens = wanted if free_bytes is None else min(wanted, free_bytes // entry_bytes(target))
    longest = max(plan.context, plan.long_context, *plan.prompt_chunks) + ROOM
    lookahead = max(*plan.lookaheads, *plan.long_lookaheads, 1)
    return CacheLimits(
        max_context_tokens=min(longest, num_kv_tokens - lookahead),
        num_kv_tokens=num_kv_tokens,
        max_sessions=max(plan.sessions) + 1,
        max_lookahead=lookahead,
        block_size=BLOCK_SIZE,
        max_step_tokens=max(*plan.prompt_chunks, max(plan.sessions) * (1 + lookahead)),
    )


@dataclass(slots=True, kw_only=True)
class Verifying:
    """Measures one engine; each row is handed out as soon as it is there."""

    engine: PagedEngine
    limits: CacheLimits
    plan: Plan
    budget: Budget
    beside: Beside

    def rows(self) -> Iterator[StepRow | PromptRow]:
        """All cells, the ones that matter most first; nothing more once the budget is spent."""
        plan = self.plan
        steps = Steps(self.engine, plan.prompt_tokens)
        yield from self._steps(steps, plan.context, self._fitting(plan.sessions, plan.context), plan.lookaheads)
        left = [count for count in plan.sessions if count not in self._fitting(plan.sessions, plan.context)]
        yield from self._steps(steps, plan.short_context, self._fitting(left, plan.short_context), plan.lookaheads)
        yield from self._prompts(steps)
        sessions = self._fitting(plan.long_sessions, plan.long_context)
        if sessions != list(plan.long_sessions):  # as many as there is room for
            most = self._num_fitting(plan.long_context)
            sessions = sorted({*sessions, most} - {0})
        yield from self._steps(steps, plan.long_context, sessions, plan.long_lookaheads)

    def _steps(
        self, steps: Steps, context: int, sessions: Sequence[int], lookaheads: Sequence[int]
    ) -> Iterator[StepRow]:
        if not sessions or self.budget.is_spent:
            return
        steps.open(max(sessions), context)
        for lookahead in lookaheads:
            for count in sessions:
                if not self.budget.is_spent:
                    yield self._row(steps, count, lookahead, context)
        steps.close(max(sessions))

    def _row(self, steps: Steps, count: int, lookahead: int, context: int) -> StepRow:
        num_tokens = count * (1 + lookahead)
        return StepRow(
            sessions=count,
            lookahead=lookahead,
            context=context,
            step_ms=measured(lambda: steps.step_ms(count, context, lookahead), self.plan.repeats),
            products_ms=self.beside.products_ms.get(num_tokens),
            floor_ms=self.beside.floor_ms(num_tokens, count * self.beside.session_bytes(context)),
        )

    def _prompts(self, steps: Steps) -> Iterator[PromptRow]:
        for size in self.plan.prompt_chunks:
            if not self.budget.is_spent and _room(size) <= self.limits.num_kv_tokens:
                spread = measured(lambda size=size: steps.prompt_ms(_PROMPT_SESSION, size), self.plan.repeats)  # type: ignore[misc]
                yield PromptRow(num_tokens=size, chunk_ms=spread)

    def _num_fitting(self, context: int) -> int:
        is_short_enough = context + ROOM <= self.limits.max_context_tokens + self.limits.max_lookahead
        return self.limits.num_kv_tokens // _room(context) if is_short_enough else 0

    def _fitting(self, counts: Sequence[int], context: int) -> list[int]:
        return [count for count in counts if count <= self._num_fitting(context)]


def _room(context: int) -> int:
    """Entries that a session of this context takes, in whole blocks."""
    return -(-(context + ROOM) // BLOCK_SIZE) * BLOCK_SIZE
