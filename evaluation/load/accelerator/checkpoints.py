"""Random checkpoints of a shape, made where they run: nothing is read, written or copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    PreTrainedModel,
)
from transformers.models.gemma4_unified.configuration_gemma4_unified import Gemma4UnifiedTextConfig
from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedForCausalLM
from transformers.models.gemma4_unified_assistant.configuration_gemma4_unified_assistant import (
    Gemma4UnifiedAssistantConfig,
)
from transformers.models.gemma4_unified_assistant.modeling_gemma4_unified_assistant import (
    Gemma4UnifiedAssistantForCausalLM,
)

from deployments.models.loading import EmbeddingTable, ShadowSpec, Target, embedding_scale, shadow_spec
from evaluation.load.accelerator.published import Shape

EOS_TOKEN_IDS = (1, 106)


@dataclass(slots=True)
class RandomPair:
    """A target, its assistant, and what the assistant's engine needs of the target."""

    target: Target | None
    assistant: PreTrainedModel
    embedding: EmbeddingTable
    spec: ShadowSpec

    @property
    def model(self) -> PreTrainedModel:
        """The target's, until it is taken."""
        assert self.target is not None, "the target is gone"
        return self.target.model

    def take_target(self) -> Target:
        """The target, to which nothing refers from here any more: what its engine replaces of it is freed."""
        assert self.target is not None, "the target is gone"
        target, self.target = self.target, None
        return target


def random_pair(shape: Shape, *, device: str, dtype: torch.dtype) -> RandomPair:
    """Both models on the device, as the library initialises them: small normal weights, norms of one."""
    torch.manual_seed(0)
    # Per-layer inputs are the smaller models' alone; the unified classes do not know them.
    plain = {} if shape.is_unified else {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    config_class = Gemma4UnifiedTextConfig if shape.is_unified else Gemma4TextConfig
    config = config_class(**plain, **shape.target)
    model = _random(Gemma4UnifiedForCausalLM if shape.is_unified else Gemma4ForCausalLM, config, device, dtype)
    assistant_config_class = Gemma4UnifiedAssistantConfig if shape.is_unified else Gemma4AssistantConfig
    assistant_config = assistant_config_class(
        text_config=config_class(**plain, **shape.assistant), backbone_hidden_size=config.hidden_size
    )
    assistant_class = Gemma4UnifiedAssistantForCausalLM if shape.is_unified else Gemma4AssistantForCausalLM
    return RandomPair(
        target=Target(model=model, text_config=model.config.get_text_config(), eos_token_ids=EOS_TOKEN_IDS),
        assistant=_random(assistant_class, assistant_config, device, dtype),
        embedding=EmbeddingTable(
            weight_VH=model.get_input_embeddings().weight, scale=embedding_scale(config.hidden_size, dtype)
        ),
        spec=shadow_spec(config, dtype=dtype),
    )


def _random(model_class: Any, config: Any, device: str, dtype: torch.dtype) -> PreTrainedModel:
    with torch.device(device):
        model: PreTrainedModel = model_class._from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False)
