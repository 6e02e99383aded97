"""Creates, saves and loads the three model folders; weights are stored in bf16."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    Gemma4AssistantForCausalLM,
    Gemma4ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from evaluation.pocket.shapes import assistant_config, draft_model_config, generation_config, target_config

TARGET, ASSISTANT, DRAFT_MODEL = "target", "assistant", "draft_model"


def initialise(model: PreTrainedModel, seed: int) -> None:
    """Draw starting weights that train well without a learning-rate warm-up of thousands of steps.

    Gemma 4 does not scale attention logits by the head dimension, so the query norm starts small; each block's
    output is normalised before it is added, so those norms start small too.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("q_norm.weight"):
                parameter.fill_(1.6 * parameter.numel() ** -0.5)
            elif name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
                parameter.fill_(0.4)
            elif parameter.dim() == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)


def new_target(seed: int) -> Gemma4ForCausalLM:
    return _new_causal_lm(Gemma4ForCausalLM(target_config()), seed)


def new_draft_model(seed: int) -> Gemma4ForCausalLM:
    return _new_causal_lm(Gemma4ForCausalLM(draft_model_config()), seed)


def _new_causal_lm(model: Gemma4ForCausalLM, seed: int) -> Gemma4ForCausalLM:
    initialise(model, seed)
    model.generation_config = generation_config()
    return model


def new_assistant(seed: int) -> Gemma4AssistantForCausalLM:
    model = Gemma4AssistantForCausalLM(assistant_config())
    initialise(model, seed)
    model.generation_config = generation_config()
    model.generation_config.num_assistant_tokens = 5
    model.generation_config.num_assistant_tokens_schedule = "constant"
    return model


def save(model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
    """Write a folder that transformers, vLLM and Outrider load alike; the model itself keeps its type."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = model if model.dtype == torch.bfloat16 else copy.deepcopy(model).to(torch.bfloat16)
    stored.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    rewrite(folder / "config.json", as_published)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        rewrite(
            folder / "tokenizer_config.json", lambda config: config.update(tokenizer_class="PreTrainedTokenizerFast")
        )


def rewrite(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads(file.read_text(encoding="utf-8"))
    change(config)
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def as_published(config: dict[str, Any]) -> None:
    """Name the full layers' head dimension as the published checkpoints do, and the stored type throughout."""
    text = config.get("text_config", config)
    text["dtype"] = config["dtype"]
    overrides = text.pop("per_layer_config", {})
    for override in overrides.values():
        text["global_head_dim"] = override["head_dim"]


def load_tokenizer(root: Path) -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(root / TARGET)
    return tokenizer


def load_target(root: Path) -> Gemma4ForCausalLM:
    return Gemma4ForCausalLM.from_pretrained(root / TARGET, dtype=torch.float32).eval()


def load_draft_model(root: Path) -> Gemma4ForCausalLM:
    return Gemma4ForCausalLM.from_pretrained(root / DRAFT_MODEL, dtype=torch.float32).eval()


def load_assistant(root: Path) -> Gemma4AssistantForCausalLM:
    return Gemma4AssistantForCausalLM.from_pretrained(root / ASSISTANT, dtype=torch.float32).eval()
