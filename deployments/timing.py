"""What a verify step was, and how long it took: a part of wire records, and what the cost model learns from."""

from __future__ import annotations

import msgspec


class StepShape(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a step's time depends on. `num_tokens` are all of it, of which `num_prompt_tokens` yield no token;
    `num_context_tokens` is the sum of its sequences' contexts.
    """

    num_sequences: int
    num_tokens: int
    num_prompt_tokens: int = 0
    num_context_tokens: int = 0


class StepTiming(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One measured step."""

    shape: StepShape
    step_ms: float
