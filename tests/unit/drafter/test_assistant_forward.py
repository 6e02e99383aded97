"""The lean forward pass gives the library's logits for every feature an assistant's configuration allows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from deployments.drafter.attention_inputs import AttentionInputs, separate, stacked
from deployments.drafter.lean_forward import LeanForward, can_run_lean
from deployments.drafter.library_forward import LibraryForward
from tests.support.tiny_drafters import TinyPair, corrected, tiny_pair

CENTROIDS = {"use_ordered_embeddings": True, "num_centroids": 16, "centroid_intermediate_top_k": 3}
SHAPES: dict[str, dict[str, Any]] = {
    "mixed head dimensions": {},
    "one head dimension": {"target": {"global_head_dim": 8}, "global_head_dim": 8},
    "one kv head": {"target": {"num_key_value_heads": 1}, "num_key_value_heads": 1},
    "as many kv heads": {"target": {"num_key_value_heads": 4}, "num_key_value_heads": 4},
    "fewer kv heads in full layers": {
        "target": {"attention_k_eq_v": True, "num_global_key_value_heads": 1},
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    },
    "softcap": {"final_logit_softcapping": 3.0},
    "centroid head": {"target": {"vocab_size": 96}, "vocab_size": 96, "assistant": CENTROIDS},
    "centroid head with softcap": {
        "target": {"vocab_size": 96},
        "vocab_size": 96,
        "assistant": CENTROIDS,
        "final_logit_softcapping": 3.0,
    },
    "biased attention": {"attention_bias": True},
    "other activation": {"hidden_activation": "silu"},
    "full layer first": {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "scaled rotary": {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
        }
    },
    "weights large enough to be packed": {"target": {"vocab_size": 12_000}, "vocab_size": 12_000},
    "large norm epsilon": {"rms_norm_eps": 0.3},
}


def random_views(pair: TinyPair, lengths: list[int]) -> dict[str, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Keys and values of each layer for sessions of these lengths."""
    return {
        layer_type: [
            tuple(torch.randn(layer.num_kv_heads, length, layer.head_dim) for _ in range(2))  # type: ignore[misc]
            for length in lengths
        ]
        for layer_type, layer in pair.spec.layers.items()
    }


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_both_forwards_equal_assistant_forward(shape: str) -> None:
    pair = tiny_pair(**SHAPES[shape])
    views = random_views(pair, [9])
    inputs: AttentionInputs = {name: separate(views[name]) for name in views}  # type: ignore[index, misc]
    hidden_BH, positions_B = torch.randn(1, 32), torch.tensor([40])
    forwards = (LeanForward(pair.assistant, pair.embedding), LibraryForward(pair.assistant, pair.embedding))
    calls = [forward.start(hidden_BH, positions_B, inputs) for forward in forwards]
    shared = {name: (keys[None], values[None]) for name, ((keys, values),) in views.items()}
    state = hidden_BH[None]
    for token in (5, 60, 17):
        embedded = pair.target.get_input_embeddings()(torch.tensor([[token]]))
        output = pair.assistant(
            inputs_embeds=torch.cat((embedded, state), dim=-1), position_ids=positions_B[None], shared_kv_states=shared
        )
        state = output.last_hidden_state
        expected = corrected(pair.assistant, output.logits[0])
        assert expected.std() > 0.1 or expected.isinf().any()
        for call in calls:
            torch.testing.assert_close(call.step(torch.tensor([token])), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", [stacked, separate])
@torch.no_grad()
def test_a_row_of_a_ragged_batch_equals_the_row_alone(layout: Any) -> None:
    pair = tiny_pair()
    lengths = [9, 3, 12]
    views = random_views(pair, lengths)
    hidden_BH, positions_B = torch.randn(3, 32), torch.tensor([40, 3, 12])
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    forward = LeanForward(pair.assistant, pair.embedding)
    inputs: AttentionInputs = {name: layout(views[name]) for name in views}  # type: ignore[misc]
    batch = forward.start(hidden_BH, positions_B, inputs)
    alone = [
        forward.start(
            hidden_BH[row : row + 1],
            positions_B[row : row + 1],
            {name: separate(views[name][row : row + 1]) for name in views},  # type: ignore[misc]
        )
        for row in range(3)
    ]
    for step, num_rows in enumerate((3, 2, 1)):
        logits = batch.step(tokens[step, :num_rows])
        assert len(logits) == num_rows
        for row in range(num_rows):
            torch.testing.assert_close(logits[row], alone[row].step(tokens[step, row : row + 1])[0])


def test_layers_of_another_class_go_through_the_library() -> None:
    pair = tiny_pair()
    assert can_run_lean(pair.assistant)

    class Wrapped(type(pair.assistant.model.layers[0])):  # type: ignore[misc]
        """A decoder layer that could do anything."""

    layer = pair.assistant.model.layers[0]
    layer.__class__ = Wrapped
    assert isinstance(layer, nn.Module)
    assert not can_run_lean(pair.assistant)
