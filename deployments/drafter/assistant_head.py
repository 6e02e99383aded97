"""From an assistant's last state to logits over the target's vocabulary.

Shapes: B rows, D the assistant's hidden size, V vocabulary, C centroids, P tokens per centroid, S selected tokens.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from deployments.drafter.products import product


class AssistantHead:
    """The assistant's output layer; logits are float32.

    A centroid head (E2B, E4B) scores only the tokens of the likeliest centroids. The library gives
    the others the batch's minimum less 1, which makes a row depend on its neighbours and leaves
    262,144 tokens a chance; here they get minus infinity. The library also leaves out
    `final_logit_softcapping`, which greedy drafts cannot tell but sampled ones can.
    """

    def __init__(self, assistant: PreTrainedModel) -> None:
        text_config = assistant.config.get_text_config()
        self._softcap: float | None = text_config.final_logit_softcapping
        self._num_selected = 0
        if not assistant.config.use_ordered_embeddings:
            self._scores = product(assistant.lm_head.weight)
        else:
            self._weight_VD: torch.Tensor = assistant.lm_head.weight
            embedder = assistant.masked_embedding
            self._num_selected = int(embedder.centroid_intermediate_top_k)
            self._centroids_CD: torch.Tensor = embedder.centroids.weight
            self._tokens_CP = embedder.token_ordering.long().view(embedder.num_centroids, -1)

    def __call__(self, state_BD: torch.Tensor) -> torch.Tensor:
        """Logits of shape (B, V), capped where the assistant's configuration says so."""
        if self._num_selected == 0:
            return self._capped(self._scores(state_BD).float())
        centroids_BC = F.linear(state_BD, self._centroids_CD).topk(self._num_selected, dim=-1).indices
        tokens_BS = self._tokens_CP[centroids_BC].flatten(1)
        scores_BS = torch.bmm(self._weight_VD[tokens_BS], state_BD[:, :, None]).squeeze(-1)
        logits_BV = scores_BS.new_full((len(state_BD), len(self._weight_VD)), float("-inf"), dtype=torch.float32)
        return logits_BV.scatter_(1, tokens_BS, self._capped(scores_BS.float()))

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap
