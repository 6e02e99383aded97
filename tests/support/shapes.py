"""Random checkpoints in every shape that Gemma 4 is published in, saved in the classes that the hub's files name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma4AssistantConfig,
    Gemma4AssistantForCausalLM,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.gemma4_unified.configuration_gemma4_unified import Gemma4UnifiedConfig
from transformers.models.gemma4_unified.modeling_gemma4_unified import Gemma4UnifiedForConditionalGeneration
from transformers.models.gemma4_unified_assistant.configuration_gemma4_unified_assistant import (
    Gemma4UnifiedAssistantConfig,
)
from transformers.models.gemma4_unified_assistant.modeling_gemma4_unified_assistant import (
    Gemma4UnifiedAssistantForCausalLM,
)

from tests.support.tiny_drafters import spread
from tests.support.tiny_models import TINY

VOCAB_SIZE = 96
SHARDS = "60KB"
"""Small enough that the tiny checkpoints come in several files, as the large ones do."""


@dataclass(frozen=True)
class Shape:
    """A published shape in miniature: what differs from `TINY` in the target's and in the assistant's decoder."""

    target: dict[str, Any]
    assistant: dict[str, Any] = field(default_factory=dict)
    centroids: bool = False
    is_unified: bool = False


_SHARED_KV: dict[str, Any] = {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
_SIX_LAYERS: dict[str, Any] = {
    "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
}
GEMMA_4 = {
    # Per-layer inputs, layers that reuse earlier keys and values, a wider MLP there, a head of centroids.
    "E2B": Shape(
        {
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "num_kv_shared_layers": 3,
            "hidden_size_per_layer_input": 8,
            "use_double_wide_mlp": True,
            "num_key_value_heads": 1,
        },
        {"num_key_value_heads": 1},
        centroids=True,
    ),
    "E4B": Shape(
        {**_SIX_LAYERS, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8},
        {},
        centroids=True,
    ),
    "12B": Shape({**_SIX_LAYERS, **_SHARED_KV}, {**_SHARED_KV}, is_unified=True),
    "26B-A4B": Shape(
        {
            **_SIX_LAYERS,
            **_SHARED_KV,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 24,
        },
        {**_SHARED_KV},
    ),
    # One projection for keys and values in full layers, and heads that differ in size and number by layer type.
    "31B": Shape({**_SIX_LAYERS, **_SHARED_KV, "global_head_dim": 32}, {**_SHARED_KV, "global_head_dim": 32}),
}


def save_pair(folder: Path, shape: Shape, *, seed: int = 0) -> Path:
    """Write `folder`/target, `folder`/target-assistant and `folder`/target-draft; returns the first."""
    torch.manual_seed(seed)
    target = _target(shape)
    _save(target, folder / "target")
    _save(_assistant(shape, target.config.text_config), folder / "target-assistant")
    _save_nearly(target, folder / "target-draft")
    return folder / "target"


def save_decoder(folder: Path, model_type: str, *, seed: int = 0) -> Path:
    """Write a random Llama- or Qwen-shaped decoder as `folder`/target, and `folder`/target-draft; returns the first."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "eos_token_id": 1}
    if model_type.lower() == "llama":
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, head_dim=8))
    _save(model, folder / "target")
    _save_nearly(model, folder / "target-draft")
    return folder / "target"


def _save_nearly(model: PreTrainedModel, folder: Path) -> None:
    """A draft model that is right now and then: the target itself, with noise in its weights."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.add_(torch.randn_like(parameter), alpha=0.08)
    model.save_pretrained(folder, max_shard_size=SHARDS)


def _save(model: PreTrainedModel, folder: Path) -> None:
    spread(model.eval().requires_grad_(False))
    model.generation_config = GenerationConfig(eos_token_id=[1], pad_token_id=0, bos_token_id=2)
    model.save_pretrained(folder, max_shard_size=SHARDS)


def _target(shape: Shape) -> PreTrainedModel:
    text = {**TINY, "global_head_dim": 16, "vocab_size": VOCAB_SIZE, "vocab_size_per_layer_input": VOCAB_SIZE}
    text |= {"final_logit_softcapping": 30.0, **shape.target}
    if shape.is_unified:
        del text["hidden_size_per_layer_input"], text["vocab_size_per_layer_input"]
        return Gemma4UnifiedForConditionalGeneration(Gemma4UnifiedConfig(text_config=text))
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"head_dim": 8, "num_key_value_heads": 2}
    return Gemma4ForConditionalGeneration(Gemma4Config(text_config=text, vision_config=vision, audio_config=None))


def _assistant(shape: Shape, target: Any) -> PreTrainedModel:
    text = {
        **TINY,
        "global_head_dim": 16,
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "num_kv_shared_layers": 3,
        "vocab_size_per_layer_input": 0,
        **shape.assistant,
    }
    head = {"use_ordered_embeddings": True, "num_centroids": 16, "centroid_intermediate_top_k": 3}
    options = {"backbone_hidden_size": target.hidden_size, **(head if shape.centroids else {})}
    if shape.is_unified:
        del text["hidden_size_per_layer_input"], text["vocab_size_per_layer_input"]
        return Gemma4UnifiedAssistantForCausalLM(Gemma4UnifiedAssistantConfig(text_config=text, **options))
    model = Gemma4AssistantForCausalLM(Gemma4AssistantConfig(text_config=text, **options))
    if model.masked_embedding is not None:
        model.masked_embedding.token_ordering.copy_(torch.randperm(VOCAB_SIZE))
    return model
