"""The steps that are worth timing before a verifier serves: what its cost model begins with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from deployments.timing import StepShape

_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LOOKAHEADS = (0, 1, 2, 4, 8)
_BESIDE_A_PROMPT = (1, 8, 64)
_OF_LONG_CONTEXTS = (1, 8)
"""With so many sequences it is also seen what a piece of a prompt, and long contexts, add."""
_SHORT_CONTEXT, _LONG_CONTEXT = 16, 1024


class WarmUpShape(NamedTuple):
    """So many sequences of a context, each with a proposal of `lookahead` tokens, and one more that reads a piece of
    its prompt if `num_prompt_tokens` is not 0.
    """

    num_sequences: int
    lookahead: int
    context: int = _SHORT_CONTEXT
    num_prompt_tokens: int = 0

    @property
    def step(self) -> StepShape:
        """As the cost model sees it."""
        num_prompts = 1 if self.num_prompt_tokens else 0
        return StepShape(
            num_sequences=self.num_sequences + num_prompts,
            num_tokens=self.num_sequences * (1 + self.lookahead) + self.num_prompt_tokens,
            num_prompt_tokens=self.num_prompt_tokens,
            num_context_tokens=self.num_sequences * (self.context + 1 + self.lookahead) + self.num_prompt_tokens,
        )


def warm_up_shapes(max_step_tokens: int, max_lookahead: int, prompt_tokens: int) -> Iterator[WarmUpShape]:
    """Those that are needed soonest first, for who has little time: small steps, then prompts, then long contexts."""
    shapes = [WarmUpShape(sequences, lookahead) for sequences in _SEQUENCES for lookahead in _LOOKAHEADS]
    shapes += [WarmUpShape(sequences, 0, num_prompt_tokens=prompt_tokens) for sequences in _BESIDE_A_PROMPT]
    shapes += [WarmUpShape(sequences, 0, _LONG_CONTEXT) for sequences in _OF_LONG_CONTEXTS]
    return (one for one in shapes if one.lookahead <= max_lookahead and one.step.num_tokens <= max_step_tokens)
