"""Cost tables of named verifier and drafter pairs, read from pairs.json: what a step and a draft take there.

The simulator's roles cost what they say, and so do paced ones (pacing.py).
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import msgspec

from deployments.policy.warm_up_shapes import warm_up_shapes
from deployments.timing import StepShape, StepTiming


class StepTable(msgspec.Struct, frozen=True, kw_only=True):
    """A verify step: a staircase over tokens (`tokens[i]` and fewer take `step_ms[i]`), beyond its end a line
    with its last slope, and what each sequence and each 1,024 tokens of context add.
    """

    tokens: tuple[int, ...]
    step_ms: tuple[float, ...]
    sequence_ms: float = 0.0
    context_ms: float = 0.0

    def predict(self, shape: StepShape) -> float:
        """The time of one step."""
        extra_ms = self.sequence_ms * shape.num_sequences + self.context_ms * shape.num_context_tokens / 1024
        return self._base(shape.num_tokens) + extra_ms

    def _base(self, num_tokens: int) -> float:
        stair = bisect_left(self.tokens, num_tokens)
        if stair < len(self.tokens):
            return self.step_ms[stair]
        last, before = len(self.tokens) - 1, len(self.tokens) - 2
        slope = (self.step_ms[last] - self.step_ms[before]) / (self.tokens[last] - self.tokens[before])
        return self.step_ms[last] + slope * (num_tokens - self.tokens[last])


class DraftTable(msgspec.Struct, frozen=True, kw_only=True):
    """A draft batch: fixed, per step of its longest lookahead, per token of all its sessions."""

    fixed_ms: float
    step_ms: float
    token_ms: float = 0.0

    def predict(self, lookaheads: Sequence[int]) -> float:
        """The time of one batch."""
        return self.fixed_ms + self.step_ms * max(lookaheads) + self.token_ms * sum(lookaheads)


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A verifier and a drafter, and the hop of one message between any two roles; `source` says how it is known."""

    description: str
    source: str
    verify: StepTable
    draft: DraftTable
    hop_ms: float
    max_step_tokens: int


@cache
def pairs() -> dict[str, Pair]:
    """All named pairs."""
    text = files("deployments.policy").joinpath("pairs.json").read_text("utf-8")
    return msgspec.convert(json.loads(text), dict[str, Pair])


def timings(pair: Pair, max_lookahead: int = 16, prompt_tokens: int = 128) -> list[StepTiming]:
    """What a verifier on this hardware would measure when it warms up."""
    shapes = [one.step for one in warm_up_shapes(pair.max_step_tokens, max_lookahead, prompt_tokens)]
    return [StepTiming(shape=shape, step_ms=pair.verify.predict(shape)) for shape in shapes]
