"""Quantised checkpoints: those that load without a GPU's kernels are served, others refused by their method's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.models.loading import load_embedding_table, load_target
from tests.support.cells import Cell
from tests.support.rig import running_rig
from tests.support.served_shapes import SMALL_STEPS, check, drafting, save_shape, verifier_engine

Weights = dict[str, torch.Tensor]
BLOCK = 16
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
GEMMA = {"quant_method": "gemma", "num_bits": 8, "modules_to_not_convert": ["lm_head", "vision_tower", "embed_vision"]}


def fp8(name: str, weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
    """Blocks of float8 with a scale each; and what they stand for."""
    rows, columns = weight.shape
    blocks = weight.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    scale = blocks.abs().amax((1, 3)) / 448.0
    stored = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    meant = (stored.float() * scale[:, None, :, None]).reshape(rows, columns)
    return {name: stored.reshape(rows, columns), f"{name}_scale_inv": scale}, meant


def gemma(name: str, weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
    """Rows of int8 with a scale each, activations as they are; and what they stand for."""
    scale = weight.abs().amax(1, keepdim=True) / 127.0
    stored = (weight / scale).round().to(torch.int8)
    uncalibrated = {
        f"{name[: -len('weight')]}{which}_activation_scale": torch.tensor(0.0) for which in ("input", "output")
    }
    return {name: stored, f"{name}_scale": scale, **uncalibrated}, stored * scale


def quantise(folder: Path, config: dict, how: Callable[[str, torch.Tensor], tuple[Weights, torch.Tensor]]) -> Path:
    """Quantise a checkpoint's projections in place; returns an ordinary checkpoint of what they now stand for."""
    plain = folder.with_name("plain")
    shutil.copytree(folder, plain)
    index_file = folder / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    for shard in sorted(folder.glob("*.safetensors")):
        stored, meant = Weights(), Weights()
        for name, weight in load_file(shard).items():
            parts, value = how(name, weight) if is_projection(name) else ({name: weight}, weight)
            stored, meant[name] = stored | parts, value.contiguous()
        save_file(stored, shard, metadata={"format": "pt"})
        save_file(meant, plain / shard.name, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(stored, shard.name)
    index_file.write_text(json.dumps(index))
    say(folder, config)
    return plain


def is_projection(name: str) -> bool:
    return name.endswith("_proj.weight") and "vision" not in name


def say(folder: Path, config: dict) -> None:
    """Write into config.json how the checkpoint is quantised."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": config}))


@pytest.mark.parametrize(
    ("shape", "config", "how", "drafter"),
    [("Llama", FP8, fp8, "draft_model"), ("31B", GEMMA, gemma, "mtp")],
    ids=["fp8", "gemma"],
)
async def test_the_text_is_that_of_the_weights_it_stands_for(tmp_path: Path, shape: str, config, how, drafter) -> None:
    folder = save_shape(tmp_path, shape)
    plain = quantise(folder, config, how)
    made = drafting(Cell(shape, drafter, "remote", "coupled"), folder)
    async with running_rig(verifiers=[verifier_engine(folder)], verifier=SMALL_STEPS, **made.options) as rig:
        await check(rig, plain, drafter)
        assert made.num_draft_tokens(rig) > 0


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "requires bitsandbytes"),
        ({"quant_method": "fbgemm_fp8"}, "GPU"),
        ({"quant_method": "higgs"}, "GPU"),
        ({"quant_method": "spqr"}, "GPU"),
        ({"quant_method": "nvfp4"}, "not supported"),
        ({"quant_method": "no-such"}, "it knows .*bitsandbytes, .*gptq"),
    ],
    ids=lambda value: value["quant_method"] if isinstance(value, dict) else "",
)
def test_one_that_cannot_be_loaded_is_refused_by_name(tmp_path: Path, config: dict, reason: str) -> None:
    target = save_shape(tmp_path, "E4B")
    say(target, config)
    with pytest.raises(ValueError, match=f"quantised with '{config['quant_method']}'.*{reason}"):
        load_target(str(target), dtype=torch.float32, device="cpu")


def test_a_quantised_embedding_cannot_be_drafted_from(tmp_path: Path) -> None:
    target = save_shape(tmp_path, "31B")
    index = target / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("embed_tokens.weight", "embed_tokens.embedding_quantized"))
    with pytest.raises(ValueError, match=r"quantised input embedding.*draft_model"):
        load_embedding_table(str(target), dtype=torch.float32, device="cpu")
