"""The assistant through the library's own layers: the reference, and the fallback of `lean_forward`.

The submodules are called one by one, as `forward` would build the attention masks anew for each token.
Shapes: B sessions of a draft batch, H the target's hidden size, V vocabulary.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from deployments.drafter.assistant_head import AssistantHead
from deployments.drafter.attention_inputs import AttentionInputs, narrowed
from deployments.models.loading import EmbeddingTable


class LibraryForward:
    """An AssistantForward for any Gemma 4 assistant class."""

    needs_stack = True

    def __init__(self, assistant: PreTrainedModel, embedding: EmbeddingTable) -> None:
        self.assistant = assistant
        self.embedding = embedding
        self.head = AssistantHead(assistant)

    @property
    def vocab_size(self) -> int:
        """V: a token that can be drafted from is below it."""
        return len(self.embedding.weight_VH)

    def start(self, hidden_BH: torch.Tensor, positions_B: torch.Tensor, attention: AttentionInputs) -> LibrarySteps:
        """Prepare one draft call."""
        return LibrarySteps(self, hidden_BH, positions_B, attention)


class LibrarySteps:
    """DraftSteps that feed the library's projected state back."""

    def __init__(
        self,
        forward: LibraryForward,
        hidden_BH: torch.Tensor,
        positions_B: torch.Tensor,
        attention: AttentionInputs,
    ) -> None:
        self._forward = forward
        self._hidden_BH = hidden_BH
        self._positions_B = positions_B
        self._attention = attention

    def step(self, tokens_B: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) of the next token, float32."""
        assistant, table = self._forward.assistant, self._forward.embedding
        num_rows = len(tokens_B)
        if num_rows < len(self._hidden_BH):
            self._hidden_BH, self._positions_B = self._hidden_BH[:num_rows], self._positions_B[:num_rows]
            self._attention = narrowed(self._attention, num_rows)
        parts = {layer_type: parts[0] for layer_type, parts in self._attention.items()}
        embedded_BH = table.weight_VH[tokens_B] * table.scale
        inputs_B1D = assistant.pre_projection(torch.cat((embedded_BH, self._hidden_BH), dim=-1)[:, None])
        state_BD = assistant.model(
            inputs_embeds=inputs_B1D,
            attention_mask={layer_type: part.mask_B11T for layer_type, part in parts.items()},
            position_ids=self._positions_B[:, None],
            shared_kv_states={layer_type: (part.keys_BHTD, part.values_BHTD) for layer_type, part in parts.items()},
            use_cache=False,
        ).last_hidden_state[:, 0]
        self._hidden_BH = assistant.post_projection(state_BD)
        return self._forward.head(state_BD)
