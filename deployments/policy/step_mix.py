"""What steps of a verifier are made of."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.timing import StepShape


@dataclass(slots=True)
class StepMix:
    """What a step of this verifier looks like, smoothed: what other routers bring per own session, and contexts."""

    other_sequences: float = 0.0
    other_drafted: float = 0.0
    context: float = 256.0

    def observe(self, shape: StepShape, num_own: int, num_own_tokens: int) -> None:
        """A step has run, with so many sessions and tokens of one router in it."""
        other = max(0, shape.num_sequences - num_own)
        drafted = max(0, shape.num_tokens - shape.num_prompt_tokens - num_own_tokens - other)
        self.other_sequences += 0.1 * (other / max(1, num_own) - self.other_sequences)
        self.other_drafted += 0.1 * (drafted / max(1, num_own) - self.other_drafted)
        self.context += 0.1 * (shape.num_context_tokens / max(1, shape.num_sequences) - self.context)
