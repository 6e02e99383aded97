"""A random target with tokenizer and MTP assistant, as the folders that a configuration names."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import Gemma4ForCausalLM

from tests.support.tiny_drafters import spread, tiny_assistant
from tests.support.tiny_models import tiny_config
from tests.support.tiny_tokenizer import byte_level_tokenizer, write_model_folder

CONTEXT = 256


def write_tiny_checkpoint(folder: Path) -> Path:
    """Write `folder`/target and `folder`/target-assistant; returns the first."""
    torch.manual_seed(0)
    target = folder / "target"
    target.mkdir(parents=True, exist_ok=True)
    write_model_folder(target, max_model_len=CONTEXT)
    vocab = {"vocab_size": byte_level_tokenizer().get_vocab_size(), "vocab_size_per_layer_input": 0}
    config = tiny_config(**vocab, max_position_embeddings=CONTEXT)
    model = Gemma4ForCausalLM(config).eval().requires_grad_(False)
    spread(model)
    kept = (target / "generation_config.json").read_text()
    model.save_pretrained(target)
    (target / "generation_config.json").write_text(kept)
    tiny_assistant(config, **vocab, max_position_embeddings=CONTEXT).save_pretrained(folder / "target-assistant")
    return target


def tiny_settings(folder: Path) -> dict[str, object]:
    """A configuration, as YAML or Serve would bring it, that serves the tiny pair."""
    return {
        "model": {"model_id": "tiny", "model_source": str(write_tiny_checkpoint(folder))},
        "streams": {"port_range": [23_300, 23_399]},
    }


if __name__ == "__main__":
    import sys

    print(json.dumps(tiny_settings(Path(sys.argv[1]))))
