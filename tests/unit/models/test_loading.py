"""Loading reads what the library would have loaded, and says what is wrong with what it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from deployments.models import loading
from tests.support.tiny_models import save_tiny_target, tiny_config


@pytest.mark.parametrize("shard_size", ["5GB", "10KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_embedding_table_gives_what_the_target_embeds(tmp_path: Path, shard_size: str, dtype: torch.dtype) -> None:
    folder = str(save_tiny_target(tmp_path, shard_size=shard_size))
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "10KB")
    target = loading.load_target(folder, dtype=dtype, device="cpu")
    table = loading.load_embedding_table(folder, dtype=dtype, device="cpu")
    ids = torch.tensor([0, 5, 96])
    embedded = target.model.get_input_embeddings()(ids)
    assert torch.equal(table.weight_VH[ids] * table.scale, embedded)


def test_the_scale_is_rounded_as_gemma_rounds_it() -> None:
    assert loading.embedding_scale(3072, torch.bfloat16) == 55.5
    assert loading.embedding_scale(3072, torch.float32) == pytest.approx(55.4256, abs=1e-4)


def test_end_of_text_comes_from_the_generation_config(tmp_path: Path) -> None:
    folder = save_tiny_target(tmp_path, eos_token_id=7)
    assert loading.load_target(str(folder), dtype=torch.float32, device="cpu").eos_token_ids == (1,)


def test_shadow_layers_are_the_last_that_keep_kv_of_their_own() -> None:
    plain = loading.shadow_spec(tiny_config(), dtype=torch.bfloat16)
    assert {layer.layer_type: layer.index for layer in plain.layers.values()} == {
        "sliding_attention": 2,
        "full_attention": 3,
    }
    shared = loading.shadow_spec(tiny_config(num_kv_shared_layers=2), dtype=torch.bfloat16)
    assert shared.layers["sliding_attention"].index == 0
    assert shared.layers["full_attention"].index == 1
    assert (shared.sliding_window, shared.hidden_size, shared.dtype) == (12, 32, torch.bfloat16)


def test_shadow_layers_have_the_shapes_of_their_type() -> None:
    config = tiny_config(attention_k_eq_v=True, num_global_key_value_heads=1)
    layers = loading.shadow_spec(config, dtype=torch.float32).layers
    sliding, full = layers["sliding_attention"], layers["full_attention"]
    assert (sliding.num_kv_heads, sliding.head_dim, sliding.entry_numel) == (2, 8, 16)
    assert (full.num_kv_heads, full.head_dim) == (1, 16)


def test_a_decoder_without_sliding_layers_cannot_be_shadowed() -> None:
    with pytest.raises(ValueError, match="set the drafter to none"):
        loading.shadow_spec(LlamaConfig(), dtype=torch.float32)


def test_what_cannot_be_loaded_is_named_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model folder"):
        loading.load_target(str(tmp_path / "missing"), dtype=torch.float32, device="cpu")
    with pytest.raises(ValueError, match=r"no config\.json"):
        loading.load_target(str(tmp_path), dtype=torch.float32, device="cpu")
    folder = str(save_tiny_target(tmp_path))
    with pytest.raises(ValueError, match="not a Gemma 4 assistant"):
        loading.load_assistant(folder, dtype=torch.float32, device="cpu")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no safetensors weights"):
        loading.load_embedding_table(folder, dtype=torch.float32, device="cpu")
