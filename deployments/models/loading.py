"""Targets, assistants and embedding tables from ordinary `save_pretrained` folders or hub ids.

Shapes: V vocabulary, H hidden size.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from packaging.version import Version
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.utils import logging

from deployments.messages import LayerType, Token

_EMBEDDING_NAMES = (
    "model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "language_model.model.embed_tokens.weight",
)
_ASSISTANT_TYPES = ("gemma4_assistant", "gemma4_unified_assistant")
# Where a checkpoint with towers keeps its decoder, and where the decoder's own class looks for it.
_DECODER_KEYS = {r"^(model\.)?language_model\.(model\.)?": "model."}
_LAYER_TYPES: tuple[LayerType, LayerType] = ("sliding_attention", "full_attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A target ready to serve, or one rank's share of it: weights in place, evaluation mode, no gradients."""

    model: PreTrainedModel
    text_config: PretrainedConfig
    eos_token_ids: tuple[Token, ...]
    num_ranks: int = 1

    def kv_shape(self, layer_index: int) -> tuple[int, int]:
        """(kv heads, head dim) of one layer as it lies here."""
        num_kv_heads, head_dim = kv_shape(self.text_config, layer_index)
        return num_kv_heads // self.num_ranks, head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingTable:
    """A target's input embedding: token t enters the model as `weight_VH[t] * scale`.

    `scale` is sqrt(hidden size) rounded to the weight's dtype, as Gemma computes it.
    """

    weight_VH: torch.Tensor
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowLayer:
    """One layer whose keys and values a drafter shadows: entries of shape (num_kv_heads, head_dim)."""

    layer_type: LayerType
    index: int
    num_kv_heads: int
    head_dim: int

    @property
    def entry_numel(self) -> int:
        """Elements of one position's keys (its values have as many)."""
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowSpec:
    """What verifier and drafter must agree on before a delta can be read: the shadow layers' shapes.

    `layers` holds, for each layer type, the last layer of that type that keeps KV of its own.
    `sliding_window` is the number of entries, its own included, that a sliding layer's position sees.
    """

    layers: Mapping[LayerType, ShadowLayer]
    sliding_window: int
    hidden_size: int
    dtype: torch.dtype


def load_config(path: str) -> PretrainedConfig:
    """The configuration of a local folder, or of a hub id when no such folder exists."""
    _check_source(path)
    return AutoConfig.from_pretrained(path)


def load_target(path: str, *, dtype: torch.dtype, device: str, num_ranks: int = 1) -> Target:
    """Load any causal decoder, ready for inference; ValueError when the checkpoint is none.

    Of a checkpoint that also sees or hears, only the decoder is read. With `num_ranks` above 1, this process's share
    by the library's own plan: the process group is there already, and every rank makes this call.
    """
    config = load_config(path)
    decoder = _decoder_config(config)
    _check_quantization(path, decoder)
    try:
        model = _load(
            AutoModelForCausalLM,
            path,
            config=decoder,
            key_mapping=None if decoder is config else _DECODER_KEYS,
            dtype=dtype,
            **({"device_map": _device_map(device)} if num_ranks == 1 else _tensor_parallel(num_ranks)),
        )
    except Exception as error:
        method = _quantization_method(decoder)
        if not method and not isinstance(error, ValueError | ImportError | OSError):
            raise  # while what a quantiser says of a machine that it does not run on comes as any kind of error
        what = f"is quantised with {method!r}, which" if method else "holds a model that"
        raise ValueError(f"{path!r} {what} transformers cannot load here as a causal decoder: {error}") from error
    eos = model.generation_config.eos_token_id if model.generation_config is not None else None
    return Target(
        model=model,
        text_config=model.config.get_text_config(),
        eos_token_ids=_as_tuple(eos),
        num_ranks=num_ranks,
    )


def load_assistant(path: str, *, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """Load a Gemma 4 MTP assistant, ready for inference; ValueError when the checkpoint is none."""
    model_type = load_config(path).model_type
    if model_type not in _ASSISTANT_TYPES:
        raise ValueError(
            f"{path!r} holds a {model_type!r} model, not a Gemma 4 assistant; "
            "point the drafter at the target's `-assistant` checkpoint"
        )
    return _load(AutoModelForCausalLM, path, dtype=dtype, device_map=_device_map(device))


def load_embedding_table(path: str, *, dtype: torch.dtype, device: str) -> EmbeddingTable:
    """Read a Gemma 4 target's input embedding, and nothing else, out of its safetensors shards.

    The weight has shape (V, H). ValueError when the folder is no Gemma 4 target.
    """
    config = load_config(path)
    text_config = config.get_text_config()
    if not config.model_type.startswith("gemma4") or "assistant" in config.model_type:
        raise ValueError(
            f"{path!r} holds a {config.model_type!r} model; MTP drafting needs the Gemma 4 target itself here"
        )
    shard, name = _find_embedding(path)
    with safe_open(str(shard), framework="pt", device=device) as tensors:
        weight_VH = tensors.get_tensor(name).to(dtype)
    expected = (text_config.vocab_size, text_config.hidden_size)
    if tuple(weight_VH.shape) != expected:
        raise ValueError(
            f"{name} in {shard} has shape {tuple(weight_VH.shape)}, config.json says {expected}; "
            "the checkpoint is inconsistent, download or save it again"
        )
    return EmbeddingTable(weight_VH=weight_VH, scale=embedding_scale(text_config.hidden_size, dtype))


def cache_keyword(model: PreTrainedModel) -> str:
    """What this model's forward pass calls its cache: transformers 5.24 renamed it, and warns at the old name."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def embedding_scale(hidden_size: int, dtype: torch.dtype) -> float:
    """sqrt(hidden size) rounded to `dtype`, the factor between a Gemma embedding's weight and its output."""
    return float(torch.tensor(math.sqrt(hidden_size)).to(dtype))


def shadow_spec(config: PretrainedConfig, *, dtype: torch.dtype) -> ShadowSpec:
    """Derive the shadow layers of a Gemma 4 target from its configuration alone.

    `dtype` is the one the target runs in. On E2B and E4B the last full layer shares an earlier
    layer's keys and values, so the earlier one is the shadow layer (DESIGN.md 5).
    """
    text_config = config.get_text_config()
    layer_types = list(getattr(text_config, "layer_types", None) or ())
    num_own = len(layer_types) - getattr(text_config, "num_kv_shared_layers", 0)
    if not set(_LAYER_TYPES) <= set(layer_types[:num_own]):
        raise ValueError(
            f"a {text_config.model_type!r} target has no sliding and full layers with KV of their own, "
            "so no MTP drafter can shadow it; set the drafter to none"
        )
    layers: dict[LayerType, ShadowLayer] = {}
    for layer_type in _LAYER_TYPES:
        index = max(i for i in range(num_own) if layer_types[i] == layer_type)
        num_kv_heads, head_dim = kv_shape(text_config, index)
        layers[layer_type] = ShadowLayer(
            layer_type=layer_type, index=index, num_kv_heads=num_kv_heads, head_dim=head_dim
        )
    return ShadowSpec(
        layers=layers, sliding_window=text_config.sliding_window, hidden_size=text_config.hidden_size, dtype=dtype
    )


def kv_shape(text_config: PretrainedConfig, layer_index: int) -> tuple[int, int]:
    """(kv heads, head dim) of one layer; Gemma 4's full layers may differ from its sliding ones."""
    per_layer = getattr(text_config, "per_layer_config", None)
    layer_config = per_layer[layer_index] if per_layer else text_config
    num_heads: int = layer_config.num_attention_heads
    num_kv_heads = getattr(layer_config, "num_key_value_heads", None) or num_heads
    head_dim = getattr(layer_config, "head_dim", None) or layer_config.hidden_size // num_heads
    return num_kv_heads, head_dim


def _check_source(path: str) -> None:
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local and not Path(path).is_dir():
        raise ValueError(f"there is no model folder {path!r}; give an existing folder or a hub id such as 'owner/name'")
    if Path(path).is_dir() and not (Path(path) / "config.json").is_file():
        raise ValueError(f"{path!r} has no config.json; give a folder written by save_pretrained")


def _decoder_config(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of the decoder alone; the same object where the checkpoint is nothing else."""
    decoder = config.get_text_config()
    if decoder is not config:
        # Said once, for the whole checkpoint.
        decoder.tie_word_embeddings = config.tie_word_embeddings
        if (quantization := getattr(config, "quantization_config", None)) is not None:
            decoder.quantization_config = quantization
    return decoder


def _tensor_parallel(num_ranks: int) -> dict[str, Any]:
    """Options of `from_pretrained` that load a share; 5.18 gave them a record of their own."""
    if Version(transformers.__version__) < Version("5.18"):
        return {"tp_plan": "auto"}
    from transformers.distributed import DistributedConfig

    return {"distributed_config": DistributedConfig(tp_size=num_ranks, tp_plan="auto")}


def _check_quantization(path: str, config: PretrainedConfig) -> None:
    """ValueError for a method that transformers does not know: it would read the quantised weights as they lie."""
    method = _quantization_method(config)
    # bitsandbytes is one method in a checkpoint, and two among the library's quantisers.
    methods = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}
    if method and method not in methods:
        known = ", ".join(sorted(methods))
        raise ValueError(f"{path!r} is quantised with {method!r}, which transformers does not know; it knows {known}")


def _quantization_method(config: PretrainedConfig) -> str:
    """How the checkpoint is quantised, "" when it is not."""
    found = getattr(config, "quantization_config", None) or {}
    return str(found.get("quant_method", "") if isinstance(found, dict) else found.quant_method)


def _load(model_class: Any, path: str, **options: Any) -> PreTrainedModel:
    """A model in evaluation mode; ValueError when a weight is not in the checkpoint, as it would be random."""
    model: PreTrainedModel
    with _quiet():  # it would list every weight that is left unread
        model, info = model_class.from_pretrained(path, output_loading_info=True, **options)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{path!r} lacks {len(missing)} weights, {missing[0]!r} among them; download it again")
    return model.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _device_map(device: str) -> dict[str, str] | None:
    """Straight onto an accelerator; None on the CPU, where there is nothing to gain."""
    return None if device == "cpu" else {"": device}


def _as_tuple(eos: int | list[int] | None) -> tuple[Token, ...]:
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)


def _find_embedding(path: str) -> tuple[Path, str]:
    index_file = _fetch(path, "model.safetensors.index.json")
    if index_file is not None:
        weight_map: dict[str, str] = json.loads(index_file.read_text())["weight_map"]
        name = _embedding_name(weight_map, path)
        shard = _fetch(path, weight_map[name])
    else:
        shard = _fetch(path, "model.safetensors")
        if shard is not None:
            with safe_open(str(shard), framework="pt") as tensors:
                name = _embedding_name(dict.fromkeys(tensors.keys(), ""), path)
    if shard is None:
        raise ValueError(f"{path!r} has no safetensors weights; save the target with safe_serialization")
    return shard, name


def _embedding_name(names: Mapping[str, str], path: str) -> str:
    for name in _EMBEDDING_NAMES:
        if name in names:
            return name
    if any(name.endswith("embed_tokens.embedding_quantized") for name in names):
        raise ValueError(
            f"{path!r} has a quantised input embedding, which an MTP drafter cannot read; "
            "choose speculation.drafter draft_model, prompt_lookup or none"
        )
    raise ValueError(
        f"{path!r} has none of the input embeddings {', '.join(_EMBEDDING_NAMES)}; is it a Gemma 4 target?"
    )


def _fetch(path: str, filename: str) -> Path | None:
    if Path(path).is_dir():
        file = Path(path) / filename
        return file if file.is_file() else None
    try:
        return Path(hf_hub_download(path, filename))
    except EntryNotFoundError:
        return None
