"""What the MTP engine asks of an assistant's forward pass.

`lean_forward.py` is the fast one, `library_forward.py` runs the library's own layers. On a CPU `compiled_forward.py`
takes their place, which reads shadows in place and drafts a whole proposal in one call.
Shapes: B sessions of a draft batch, H the target's hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch

from deployments.drafter.attention_inputs import AttentionInputs


class DraftSteps(Protocol):
    """One draft call in progress: each step drafts one token per session, at a constant position."""

    def step(self, tokens_B: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) of the token after `tokens_B`, the last known or just drafted ones.

        Fewer tokens than in the step before mean that the batch's later sessions are finished.
        """


class AssistantForward(Protocol):
    """An assistant ready to draft."""

    @property
    def vocab_size(self) -> int:
        """V: a token that can be drafted from is below it."""

    @property
    def needs_stack(self) -> bool:
        """Whether all sessions of a batch must come as one padded part (see `attention_inputs.stacked`)."""

    def start(self, hidden_BH: torch.Tensor, positions_B: torch.Tensor, attention: AttentionInputs) -> DraftSteps:
        """Prepare what is constant over a draft call; `hidden_BH` are the target's states before the last tokens."""
