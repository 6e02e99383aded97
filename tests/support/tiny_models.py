"""Random checkpoints of Gemma 4's shapes, small enough to build inside a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Gemma4ForCausalLM, Gemma4TextConfig, GenerationConfig

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "sliding_window": 12,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 97,
    "max_position_embeddings": 512,
    "eos_token_id": [1],
}


def tiny_config(**overrides: Any) -> Gemma4TextConfig:
    """A four-layer Gemma 4 text configuration with head dimensions 8 (sliding) and 16 (full)."""
    return Gemma4TextConfig(**{**TINY, "global_head_dim": 16, **overrides})


def save_tiny_target(folder: Path, *, seed: int = 0, shard_size: str = "5GB", **overrides: Any) -> Path:
    """Write a random target whose logits are spread widely enough to sample from."""
    torch.manual_seed(seed)
    model = Gemma4ForCausalLM(tiny_config(**overrides)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5 if "embed_tokens" in name else 0.2)
    model.generation_config = GenerationConfig(eos_token_id=[1], pad_token_id=0, bos_token_id=2)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return folder
