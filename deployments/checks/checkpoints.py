"""Model folders: complete, readable, and made for each other. Reads headers and JSON, never weights."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.checks.finding import Finding, ok, problem

_MAX_HEADER_BYTES = 100 << 20
DOWNLOAD = "download it again: `hf download OWNER/NAME --local-dir FOLDER`"


class Unusable(ValueError):
    """A folder that cannot be served; the text says what is wrong with it."""


def check_checkpoints(target: Path, assistant: Path | None = None, draft_model: Path | None = None) -> list[Finding]:
    """One finding per folder, and one for each drafter's beside the target's."""
    findings, texts = [], {}
    for name, folder in (("target", target), ("assistant", assistant), ("draft model", draft_model)):
        if folder is None:
            continue
        try:
            texts[name], summary = _read_folder(folder)
        except (Unusable, OSError) as error:
            findings.append(problem("models", f"{name}: {error}", DOWNLOAD))
        else:
            findings.append(ok("models", f"{name}: {folder} is complete ({summary})"))
    if not (target / "tokenizer.json").is_file() and "target" in texts:
        findings.append(problem("models", f"target: {target} has no tokenizer.json", DOWNLOAD))
    if assistant is not None and {"target", "assistant"} <= set(texts):
        findings.append(_pair(texts["target"], texts["assistant"], target, assistant))
    if draft_model is not None and {"target", "draft model"} <= set(texts):
        findings.append(_draft_pair(target, draft_model))
    return findings


def check_whole(folder: Path) -> None:
    """Unusable or OSError unless the folder holds a checkpoint whose files are complete."""
    _read_folder(folder)


def _draft_pair(target: Path, draft_model: Path) -> Finding:
    tokenizers = [_vocabulary(folder) for folder in (target, draft_model)]
    if None in tokenizers or tokenizers[0] != tokenizers[1]:
        detail = f"target and draft model have different tokenizers ({target}, {draft_model})"
        return problem("models", detail, "set model.draft_model_source to a model of the target's family")
    return ok("models", "target and draft model have the same tokenizer")


def _pair(target: Mapping[str, Any], assistant: Mapping[str, Any], target_path: Path, assistant_path: Path) -> Finding:
    remedy = (
        "set model.assistant_source to the checkpoint that was made for this target, its name with -assistant behind it"
    )
    if assistant.get("model_type") != "gemma4_assistant":
        detail = f"assistant: {assistant_path} holds a {assistant.get('model_type')!r} model, not a Gemma 4 assistant"
        return problem("models", detail, remedy)
    text, own = _text_of(target), _text_of(assistant)
    expected = {
        "hidden size": (text.get("hidden_size"), assistant.get("backbone_hidden_size")),
        "vocabulary": (text.get("vocab_size"), own.get("vocab_size")),
        **{f"{kind} heads": (_heads(text, kind), _heads(own, kind)) for kind in ("sliding", "full")},
    }
    for what, (wanted, found) in expected.items():
        if wanted != found:
            detail = f"the assistant does not fit the target: {what} {found}, the target has {wanted}"
            return problem("models", detail, remedy)
    tokenizers = [_vocabulary(folder) for folder in (target_path, assistant_path)]
    if None not in tokenizers and tokenizers[0] != tokenizers[1]:
        return problem(
            "models", "target and assistant have different tokenizers: their ids mean different text", remedy
        )
    return ok("models", "the assistant fits the target" + ("" if None in tokenizers else ", tokenizers are the same"))


def _heads(text: Mapping[str, Any], kind: str) -> tuple[Any, Any]:
    """(kv heads, head dimension) of the sliding or of the full layers."""
    heads, size = text.get("num_key_value_heads"), text.get("head_dim")
    if kind == "full":
        if text.get("attention_k_eq_v") is not False:
            heads = text.get("num_global_key_value_heads") or heads
        size = text.get("global_head_dim") or size
    return heads, size


def _text_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {**fields, **fields.get("text_config", {})}


def _vocabulary(folder: Path) -> str | None:
    """A fingerprint of what the tokenizer's ids mean; None without a tokenizer."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    fields = _json(file)
    parts = [fields.get("model"), fields.get("added_tokens")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read_folder(folder: Path) -> tuple[dict[str, Any], str]:
    """config.json and a line about the weights; Unusable, OSError."""
    if not folder.is_dir():
        raise Unusable(f"there is no folder {folder}")
    config = _json(folder / "config.json")
    if (tokenizer := folder / "tokenizer.json").is_file():
        _json(tokenizer)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names_by_shard: dict[str, set[str]] = {}
        for name, shard in _json(index)["weight_map"].items():
            names_by_shard.setdefault(shard, set()).add(name)
    elif (folder / "model.safetensors").is_file():
        names_by_shard = {"model.safetensors": set()}
    else:
        others = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".gguf", ".pt", ".pth")]
        there = f", only {', '.join(sorted(others))}, which this server does not load" if others else ""
        raise Unusable(f"{folder} has no safetensors weights{there}")
    total = sum(_check_shard(folder / shard, names) for shard, names in names_by_shard.items())
    return config, f"{len(names_by_shard)} file(s), {total / 1e9:.2f} GB"


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise Unusable(f"{path.parent} has no {path.name}")
    try:
        fields = json.loads(path.read_bytes())
    except ValueError as error:
        raise Unusable(f"{path} is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise Unusable(f"{path} holds no JSON object")
    return fields


def _check_shard(path: Path, names: set[str]) -> int:
    """The size of a safetensors file whose header and length agree; Unusable."""
    if not path.is_file():
        raise Unusable(f"{path.name} is missing in {path.parent}")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        header_len = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + header_len > min(size, _MAX_HEADER_BYTES):
            raise Unusable(f"{path} is no safetensors file, or cut off")
        try:
            header = json.loads(file.read(header_len))
        except ValueError:
            raise Unusable(f"{path} has a damaged header") from None
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    expected = 8 + header_len + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    if size != expected:
        raise Unusable(f"{path} has {size} bytes and should have {expected}: the download was cut off")
    if missing := names - set(tensors):
        raise Unusable(f"{path} lacks {len(missing)} tensors of the index, {min(missing)} for one")
    return size
