"""Makes a target as large as wanted without changing what it says: same logits, so same text and same acceptance.

Wider MLPs: random gate and up rows whose down columns are zero. Further layers: their output projections are zero, so
that they add zero to what passes them. They go before the first layer, hence the assistant finds the layers that it
attends to where it expects them. Every product is computed and read from memory like any other.
"""

import copy
import shutil
from pathlib import Path

import torch
from torch import Tensor
from transformers import Gemma4ForCausalLM, Gemma4TextConfig

from evaluation.pocket.folders import ASSISTANT, DRAFT_MODEL, TARGET, load_target, load_tokenizer, save


def inflate(
    source: Path,
    out: Path,
    *,
    intermediate_size: int | None = None,
    num_extra_layers: int = 0,
    device: str = "cpu",
) -> int:
    """Write the pair in `source` to `out` with a larger target; returns its number of parameters.

    `out` gets ordinary checkpoint folders, drafters copied as they are. The larger target is made on `device`, in the
    type that it is stored in. ValueError for sizes below the source's.
    """
    target = load_target(source).to(device, torch.bfloat16)
    larger = inflated(target, intermediate_size or target.config.intermediate_size, num_extra_layers)
    save(larger, out / TARGET, load_tokenizer(source))
    for drafter in (ASSISTANT, DRAFT_MODEL):
        shutil.copytree(source / drafter, out / drafter, dirs_exist_ok=True)
    return sum(parameter.numel() for parameter in larger.parameters())


@torch.no_grad()
def inflated(target: Gemma4ForCausalLM, intermediate_size: int, num_extra_layers: int = 0) -> Gemma4ForCausalLM:
    """Return a larger target with the same logits, on the same device; the noise is the same every time."""
    config = _larger_config(target.config, intermediate_size, num_extra_layers)
    with target.device:
        larger = Gemma4ForCausalLM._from_config(config, dtype=target.dtype).eval()
    larger.generation_config = copy.deepcopy(target.generation_config)
    generator = torch.Generator(target.device).manual_seed(0)
    known = {_shifted(name, num_extra_layers): tensor for name, tensor in target.state_dict().items()}
    for name, tensor in larger.state_dict().items():
        if name in known:
            _copy_padded(name, known[name], tensor, generator)
        elif name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor.zero_()
        elif tensor.dim() == 2:
            _fill_with_noise(tensor, generator)
    return larger


def _larger_config(config: Gemma4TextConfig, intermediate_size: int, num_extra_layers: int) -> Gemma4TextConfig:
    if intermediate_size < config.intermediate_size or num_extra_layers < 0:
        raise ValueError(
            f"the target has {config.num_hidden_layers} layers with an intermediate size of "
            f"{config.intermediate_size}; it can only grow, not shrink to {intermediate_size}"
        )
    plain = config.to_dict()
    for name in ("num_kv_shared_layers", "hidden_size_per_layer_input", "enable_moe_block"):
        if plain.get(name):
            raise ValueError(f"only dense targets without {name} can be inflated")
    # The overrides per layer follow from the layer types and the full layers' head dimension.
    overrides = plain.pop("per_layer_config", None) or {}
    for override in overrides.values():
        plain["global_head_dim"] = override.get("head_dim", plain.get("global_head_dim"))
    types = list(config.layer_types)
    plain["layer_types"] = [types[index % len(types)] for index in range(num_extra_layers)] + types
    plain["num_hidden_layers"] = len(plain["layer_types"])
    plain["intermediate_size"] = intermediate_size
    larger: Gemma4TextConfig = Gemma4TextConfig(**plain)
    return larger


def _shifted(name: str, num_layers: int) -> str:
    """The name of a source's tensor in the larger model, whose first layers are new."""
    head, found, tail = name.partition("layers.")
    index, _, rest = tail.partition(".")
    return f"{head}{found}{int(index) + num_layers}.{rest}" if found else name


def _copy_padded(name: str, source: Tensor, larger: Tensor, generator: torch.Generator) -> None:
    """The source's tensor in the corner of a larger one, and around it what adds nothing to the output."""
    if source.shape == larger.shape:
        larger.copy_(source)
        return
    if name.endswith("down_proj.weight"):
        larger.zero_()
    else:
        _fill_with_noise(larger, generator)
    larger[tuple(slice(size) for size in source.shape)].copy_(source)


def _fill_with_noise(tensor: Tensor, generator: torch.Generator) -> None:
    tensor.normal_(0.0, tensor.shape[1] ** -0.5, generator=generator)
