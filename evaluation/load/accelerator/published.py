"""The shapes of the published models, and small ones to try the measures on.

The numbers are those of transformers' conversion scripts for Gemma 4 and of the assistants' published configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SLIDING, _FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a target's text configuration and its assistant's say, beside what they have in common."""

    target: Mapping[str, Any]
    assistant: Mapping[str, Any]
    is_unified: bool = False


def _heads(num_heads: int, num_kv_heads: int, num_full_kv_heads: int) -> dict[str, Any]:
    return {
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "num_global_key_value_heads": num_full_kv_heads,
        "head_dim": 256,
        "global_head_dim": 512,
        "attention_k_eq_v": True,
        "sliding_window": 1024,
        "max_position_embeddings": 262_144,
    }


def _target(num_layers: int, hidden_size: int, intermediate_size: int, **more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": num_layers,
        "layer_types": ([_SLIDING] * 5 + [_FULL]) * (num_layers // 6),
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "final_logit_softcapping": 30.0,
        **more,
    }


_FOUR_LAYERS = {"num_hidden_layers": 4, "layer_types": [_SLIDING] * 3 + [_FULL], "num_kv_shared_layers": 4}
_ASSISTANT: dict[str, Any] = {**_FOUR_LAYERS, "hidden_size": 1024, "intermediate_size": 8192}
_EXPERTS = {"enable_moe_block": True, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704}
_SMALL = {**_heads(4, 2, 1), "head_dim": 16, "global_head_dim": 32, "sliding_window": 64, "vocab_size": 512}
_SMALL_ASSISTANT = {**_SMALL, **_FOUR_LAYERS, "hidden_size": 32, "intermediate_size": 64}
_FEW_EXPERTS = {**_EXPERTS, "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 32}
SHAPES: Mapping[str, Shape] = {
    "31b": Shape(_target(60, 5376, 4 * 5376, **_heads(32, 16, 4)), {**_ASSISTANT, **_heads(32, 16, 4)}),
    "26b-a4b": Shape(_target(30, 2816, 2112, **_heads(16, 8, 2), **_EXPERTS), {**_ASSISTANT, **_heads(16, 8, 2)}),
    "12b": Shape(_target(48, 3840, 4 * 3840, **_heads(16, 8, 1)), {**_ASSISTANT, **_heads(16, 8, 1)}, is_unified=True),
    # To try the measures themselves, where there is no accelerator.
    "tiny": Shape(_target(6, 64, 128, **_SMALL), _SMALL_ASSISTANT),
    "tiny-experts": Shape(_target(6, 64, 48, **_SMALL, **_FEW_EXPERTS), _SMALL_ASSISTANT),
    "tiny-unified": Shape(_target(6, 64, 128, **_SMALL), _SMALL_ASSISTANT, is_unified=True),
}
