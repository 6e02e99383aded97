"""What a configuration must know of a checkpoint's folder before anything is loaded: no torch, no transformers."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from math import gcd
from pathlib import Path
from typing import Any

POCKET = "pocket"


class ConfigError(ValueError):
    """A configuration that cannot be used; the text names each field and says what would be right."""


def folder_of(source: str, field: str, pocket_part: str = "target") -> str:
    """The folder of a source, which must hold a checkpoint."""
    folder = Path(str(files("deployments.models"))) / POCKET / pocket_part if source == POCKET else Path(source)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.{field}: {str(folder)!r} holds no config.json; give the folder of a downloaded checkpoint "
            "(`hf download <model> --local-dir <folder>`)"
        )
    return str(folder.resolve())


def _text_fields(folder: str | Path) -> dict[str, Any]:
    file = Path(folder) / "config.json"
    try:
        fields = json.loads(file.read_text("utf-8"))
        return {**fields, **fields.get("text_config", {})}
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{str(file)!r} is no model's configuration ({error}); download it again") from None


def max_positions(folder: str, otherwise: int) -> int:
    """The longest context a checkpoint was made for."""
    found = _text_fields(folder).get("max_position_embeddings")
    return int(found) if found is not None else otherwise


def own_dtype(folder: str, otherwise: str) -> str:
    """What a checkpoint's weights are stored in, as its config.json says; `otherwise` where it does not say so."""
    fields = _text_fields(folder)
    found = fields.get("dtype") or fields.get("torch_dtype")
    return str(found) if found in ("float32", "bfloat16", "float16") else otherwise


def vocab_size(folder: str | Path) -> int:
    """How many token ids a checkpoint knows."""
    return int(_text_fields(folder)["vocab_size"])


def end_token_ids(folder: str | Path) -> tuple[int, ...]:
    """The tokens that end an answer, by a checkpoint's generation_config.json, else its config.json."""
    path = Path(folder) / "generation_config.json"
    generation = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    found = generation.get("eos_token_id", _text_fields(folder).get("eos_token_id"))
    return tuple(found) if isinstance(found, list) else () if found is None else (found,)


def tensor_parallel_sizes(folder: str) -> list[int]:
    """The numbers of ranks among which a checkpoint's attention heads can be divided, by its config.json."""
    fields = _text_fields(folder)
    counts = [fields.get("num_attention_heads"), fields.get("num_key_value_heads")]
    if fields.get("attention_k_eq_v") is not False:  # else the full layers have the sliding layers' heads
        counts.append(fields.get("num_global_key_value_heads"))
    most = gcd(*(int(count) for count in counts if count))
    return [size for size in range(1, most + 1) if most % size == 0] or [1]


def check_shares(size: int, folder: str) -> None:
    """Raise when a target cannot be divided among this many ranks."""
    if size != 1 and size not in (sizes := tensor_parallel_sizes(folder)):
        can = ", ".join(str(size) for size in sizes)
        raise ConfigError(f"verifier.tensor_parallel_size: {size} does not divide the model's heads; choose of {can}")


def tokenizer_fingerprint(folder: str) -> str:
    """Equal for tokenizers that give every text the same token ids, by the vocabulary, merges and added tokens."""
    try:
        fields = json.loads((Path(folder) / "tokenizer.json").read_text("utf-8"))
        model = fields["model"]
        added = sorted((token["id"], token["content"]) for token in fields.get("added_tokens", ()))
        facts = [model.get("type"), model["vocab"], model.get("merges"), added, fields.get("pre_tokenizer")]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{folder!r} holds no tokenizer.json that can be read; download it again") from None
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def draft_model_folder(named: str | None, target_named: str, target: str) -> str:
    """The folder of what drafts for the target in folder `target`; ConfigError if none fits, or none is named."""
    if named is None and target_named != POCKET:
        raise ConfigError("model.draft_model_source: name the folder of a draft model for this target")
    folder = folder_of(named or POCKET, "draft_model_source", "draft_model")
    _check_same_tokenizer(target, folder)
    return folder


def _check_same_tokenizer(target: str, draft_model: str) -> None:
    """Raise when a draft model's tokens are not the target's: its guesses would mean something else."""
    if tokenizer_fingerprint(target) != tokenizer_fingerprint(draft_model):
        raise ConfigError(
            f"model.draft_model_source: the tokenizer of {draft_model!r} is not that of the target {target!r}; "
            "choose a draft model of the same family"
        )
