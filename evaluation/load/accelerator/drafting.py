"""What a batch of drafts takes for so many sessions, lookaheads and contexts.

Shapes: T entries, N elements of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from deployments.drafter.engine import DraftRequest
from deployments.drafter.mtp_engine import MtpEngine, build_mtp_engine
from deployments.messages import KvRange, SamplingParams
from deployments.models.loading import ShadowSpec
from evaluation.load.accelerator.checkpoints import RandomPair
from evaluation.load.accelerator.records import Budget, DraftRow, Plan, measured
from evaluation.load.stopwatch import timed_ms

_SLACK_ENTRIES = 128
"""What a shadow may hold of a sliding layer beyond its window."""


def shadow_budget(spec: ShadowSpec, num_sessions: int, context: int) -> int:
    """Bytes that so many shadows of this context take, with some to spare."""
    per_session = 0
    for layer in spec.layers.values():
        is_sliding = layer.layer_type == "sliding_attention"
        entries = min(context, 2 * (spec.sliding_window + _SLACK_ENTRIES)) if is_sliding else context
        per_session += 2 * max(entries, _SLACK_ENTRIES) * layer.entry_numel * spec.dtype.itemsize
    return 2 * num_sessions * per_session


@dataclass(slots=True, kw_only=True)
class Drafting:
    """Measures a drafter's engine over shadows of random entries; each row is handed out as soon as it is there."""

    pair: RandomPair
    device: str
    plan: Plan
    budget: Budget
    floor_ms: Callable[[int], float | None]
    """By lookahead: reading the assistant so many times."""

    def rows(self) -> Iterator[DraftRow]:
        """All numbers of sessions at the plan's context and at its long one; nothing more once the budget is spent."""
        plan, spec = self.plan, self.pair.spec
        most = max(plan.sessions)
        num_bytes = shadow_budget(spec, most, max(plan.context, plan.long_context))
        engine = build_mtp_engine(
            self.pair.assistant, self.pair.embedding, spec, shadow_bytes=num_bytes, device=self.device
        )
        for context in (plan.context, plan.long_context):
            if self.budget.is_spent:
                return
            requests = _attached(engine, spec, most, context)
            for lookahead in plan.draft_lookaheads:
                for count in plan.sessions:
                    if not self.budget.is_spent:
                        yield self._row(engine, requests[:count], lookahead, context)
            for session in range(most):
                engine.detach(session)

    def _row(self, engine: MtpEngine, requests: list[DraftRequest], lookahead: int, context: int) -> DraftRow:
        asked = [
            DraftRequest(
                session=request.session,
                context_len=request.context_len,
                last_token=request.last_token,
                lookahead=lookahead,
                hidden=request.hidden,
            )
            for request in requests
        ]
        assert all(len(draft.tokens) == lookahead for draft in engine.draft(asked)), "a shadow was evicted"
        return DraftRow(
            sessions=len(asked),
            lookahead=lookahead,
            context=context,
            draft_ms=measured(lambda: timed_ms(lambda: engine.draft(asked)), self.plan.repeats),
            floor_ms=self.floor_ms(lookahead),
        )


def _attached(engine: MtpEngine, spec: ShadowSpec, num_sessions: int, context: int) -> list[DraftRequest]:
    """Sessions with whole shadows for this context, and what asks for a draft after it."""
    ranges = tuple(_random_range(spec, name, context - 1) for name in ("sliding_attention", "full_attention"))
    hidden = _random_bytes((spec.hidden_size,), spec.dtype)
    for session in range(num_sessions):
        engine.attach(session, SamplingParams())
        engine.extend(session, ranges)
    return [
        DraftRequest(session=session, context_len=context, last_token=6 + session, lookahead=0, hidden=hidden)
        for session in range(num_sessions)
    ]


def _random_range(spec: ShadowSpec, layer_type: str, stop: int) -> KvRange:
    layer = spec.layers[layer_type]  # type: ignore[index]
    start = max(0, stop - spec.sliding_window) if layer_type == "sliding_attention" else 0
    keys, values = (_random_bytes((stop - start, layer.entry_numel), spec.dtype) for _ in range(2))
    return KvRange(layer_type=layer.layer_type, start=start, stop=stop, keys=keys, values=values)


def _random_bytes(shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    """Normal numbers."""
    data: bytes = torch.randn(shape).to(dtype).view(torch.uint8).numpy().tobytes()
    return data
