"""Turns rows into a cost table as `deployments/policy/pairs.json` holds them, for paced roles and the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation.load.accelerator.records import DraftRow, PromptRow, StepRow

HOP_MS = 0.15
"""Nothing here measures a network: what the estimated pairs assume."""


def cost_table(
    steps: Sequence[StepRow], prompts: Sequence[PromptRow], drafts: Sequence[DraftRow], *, description: str, source: str
) -> dict[str, Any] | None:
    """One entry of the file; None while there is too little to fit.

    The staircase is what was measured less what sequences and contexts add, and never falls.
    """
    if len(steps) < 4 or len(drafts) < 3:
        return None
    sequence_ms, context_ms = _additions(steps)
    known = {row.num_tokens: _bare_ms(row, sequence_ms, context_ms) for row in _shortest_contexts(steps)}
    for row in prompts:
        known.setdefault(row.num_tokens, row.chunk_ms.median - sequence_ms)
    stairs = np.maximum.accumulate([max(known[tokens], 0.0) for tokens in sorted(known)])
    fixed_ms, step_ms, token_ms = _draft_parts(drafts)
    return {
        "description": description,
        "source": source,
        "verify": {
            "tokens": sorted(known),
            "step_ms": [round(float(stair), 3) for stair in stairs],
            "sequence_ms": round(sequence_ms, 4),
            "context_ms": round(context_ms, 4),
        },
        "draft": {"fixed_ms": round(fixed_ms, 3), "step_ms": round(step_ms, 3), "token_ms": round(token_ms, 4)},
        "hop_ms": HOP_MS,
        "max_step_tokens": max(known),
    }


def _additions(steps: Sequence[StepRow]) -> tuple[float, float]:
    """Milliseconds per sequence, and per 1,024 tokens of context."""
    features = [[1.0, row.num_tokens, row.sessions, row.sessions * row.context / 1024] for row in steps]
    _, _, sequence_ms, context_ms = _fit(features, [row.step_ms.median for row in steps])
    return sequence_ms, context_ms


def _bare_ms(row: StepRow, sequence_ms: float, context_ms: float) -> float:
    added_ms = sequence_ms * row.sessions + context_ms * row.sessions * row.context / 1024
    return row.step_ms.median - added_ms


def _shortest_contexts(steps: Sequence[StepRow]) -> list[StepRow]:
    """Of rows with as many tokens, the one of the shortest context."""
    ordered = sorted(steps, key=lambda row: (row.num_tokens, -row.context))
    return list({row.num_tokens: row for row in ordered}.values())


def _draft_parts(drafts: Sequence[DraftRow]) -> tuple[float, float, float]:
    """Milliseconds per batch, per step of it, and per token of all its sessions."""
    shortest = min(row.context for row in drafts)
    rows = [row for row in drafts if row.context == shortest]
    features = [[1.0, row.lookahead, row.sessions * row.lookahead] for row in rows]
    fixed_ms, step_ms, token_ms = _fit(features, [row.draft_ms.median for row in rows])
    return fixed_ms, step_ms, token_ms


def _fit(features: Sequence[Sequence[float]], times_ms: Sequence[float]) -> list[float]:
    """Least squares of the relative error with no weight below 0: what would be negative is left out."""
    matrix, target = np.asarray(features), np.asarray(times_ms)
    matrix, target = matrix / target[:, None], np.ones_like(target)
    weights = np.zeros(matrix.shape[1])
    used = list(range(matrix.shape[1]))
    while used:
        found = np.linalg.lstsq(matrix[:, used], target, rcond=None)[0]
        if (found >= 0).all():
            weights[used] = found
            break
        used.pop(int(found.argmin()))
    return [float(weight) for weight in weights]
