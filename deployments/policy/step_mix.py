"""What steps of a verifier are made of."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.timing import StepShape

_KEPT = 0.996
"""What a step leaves of what earlier ones said about prompts: those come in bursts."""


@dataclass(slots=True)
class StepMix:
    """What a step of this verifier looks like, smoothed: what other routers bring per own session, contexts, and the
    prompts that are read beside what is verified.
    """

    other_sequences: float = 0.0
    other_drafted: float = 0.0
    context: float = 256.0
    _prompt_tokens: float = 0.0
    _steps_with_prompts: float = 0.0
    _own: float = 0.0

    def observe(self, shape: StepShape, num_own: int, num_own_tokens: int) -> None:
        """A step has run, with so many sessions and tokens of one router in it."""
        other = max(0, shape.num_sequences - num_own)
        drafted = max(0, shape.num_tokens - shape.num_prompt_tokens - num_own_tokens - other)
        self.other_sequences += 0.1 * (other / max(1, num_own) - self.other_sequences)
        self.other_drafted += 0.1 * (drafted / max(1, num_own) - self.other_drafted)
        self.context += 0.1 * (shape.num_context_tokens / max(1, shape.num_sequences) - self.context)
        is_shared = shape.num_sequences > 1 and shape.num_tokens > shape.num_prompt_tokens
        if is_shared or not shape.num_prompt_tokens:  # beside a prompt that is alone nothing is verified
            self._own = _KEPT * self._own + num_own
            self._prompt_tokens = _KEPT * self._prompt_tokens + shape.num_prompt_tokens
            self._steps_with_prompts = _KEPT * self._steps_with_prompts + (shape.num_prompt_tokens > 0)

    def prompts(self, num_sessions: float) -> tuple[float, int]:
        """The share of steps of so many own sessions in which prompts are read, and how many tokens of them then."""
        if not self._steps_with_prompts:
            return 0.0, 0
        tokens = num_sessions * self._prompt_tokens / max(1.0, self._own)
        together = max(tokens, self._prompt_tokens / self._steps_with_prompts)
        return tokens / together, round(together)
