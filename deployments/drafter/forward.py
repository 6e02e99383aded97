"""What the MTP engine asks of an assistant's forward pass.

The fast ones read shadows in place and draft a whole proposal on their own: `compiled_forward.py` on a CPU,
`graphed_forward.py` on a GPU. Where neither knows an assistant's layers, `lean_forward.py` or, with the library's own
layers, `library_forward.py` is given what it attends to as tensors.
Shapes: B sessions of a draft batch, K drafted tokens, H the target's hidden size, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch

from deployments.drafter.attention_inputs import AttentionInputs, EntryMemory
from deployments.messages import EarlyStop, LayerType, SamplingParams


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


class WholeDraft(NamedTuple):
    """A batch's tokens and the drafter's probability of each, (K, B); of each session the first `lengths` are valid."""

    tokens_KB: torch.Tensor
    confidences_KB: torch.Tensor
    lengths: Sequence[int]


class InPlaceSteps(DraftSteps, Protocol):
    """The same over shadows that are read in place; its first tokens are known."""

    def draw(
        self,
        lookaheads: Sequence[int],
        early_stops: Sequence[EarlyStop | None],
        params: Sequence[SamplingParams],
        positions: Sequence[int],
    ) -> WholeDraft:
        """All steps of the call, each token drawn by the noise that the verifier will use for its position.

        `positions` is where each session's first drafted token will stand; the longest lookahead comes first.
        """


class InPlaceForward(ABC):
    """An assistant ready to draft from shadows where they lie."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """V: a token that can be drafted from is below it."""

    @abstractmethod
    def start(
        self,
        hidden_BH: torch.Tensor,
        tokens: Sequence[int],
        positions: Sequence[int],
        memory: Mapping[LayerType, Sequence[EntryMemory]],
    ) -> InPlaceSteps:
        """Prepare one draft call on shadows that stay as they are until it is over.

        `hidden_BH`, on the CPU, are the target's states before `tokens`, the last known ones.
        """
