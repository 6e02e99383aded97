"""Model folders that are whole and belong together, and every way in which they may not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from deployments.checks.checkpoints import check_checkpoints

POCKET = Path(str(files("deployments.models"))) / "pocket"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the pocket pair, to be broken."""
    for name, part in (("target", "target"), ("target-assistant", "assistant")):
        shutil.copytree(POCKET / part, tmp_path / name)
    return tmp_path / "target", tmp_path / "target-assistant"


def problems(target: Path, assistant: Path | None) -> list[str]:
    findings = check_checkpoints(target, assistant)
    assert all(finding.remedy for finding in findings if finding.state == "problem")
    return [finding.detail for finding in findings if finding.state == "problem"]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


def test_the_pocket_pair_is_whole(pair: tuple[Path, Path]) -> None:
    assert problems(*pair) == []
    assert problems(pair[0], None) == []
    assert len(check_checkpoints(*pair)) == 3


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_files_that_are_cut_off_are_named(pair: tuple[Path, Path], name: str) -> None:
    target, assistant = pair
    (target / name).write_bytes((target / name).read_bytes()[:300])
    (said,) = problems(target, assistant)
    assert f"{target / name} is no JSON" in said


def test_shards_are_looked_at_one_by_one(pair: tuple[Path, Path]) -> None:
    target, _ = pair
    (target / "model.safetensors").unlink()
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (target / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    save_file({"a": torch.zeros(8)}, target / "model-1.safetensors")
    assert "model-2.safetensors is missing" in problems(target, None)[0]
    save_file({"c": torch.zeros(8)}, target / "model-2.safetensors")
    assert "lacks 1 tensors of the index, b for one" in problems(target, None)[0]
    save_file({"b": torch.zeros(8)}, target / "model-2.safetensors")
    assert problems(target, None) == []
    whole = (target / "model-2.safetensors").read_bytes()
    (target / "model-2.safetensors").write_bytes(whole[:-5])
    assert "the download was cut off" in problems(target, None)[0]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda t, a: shutil.rmtree(t), "target: there is no folder"),
        (lambda t, a: (t / "config.json").unlink(), "has no config.json"),
        (lambda t, a: (t / "config.json").write_text("{"), "is no JSON"),
        (lambda t, a: (a / "config.json").write_text("[]"), "assistant: .*holds no JSON object"),
        (lambda t, a: (t / "tokenizer.json").unlink(), "target: .*has no tokenizer.json"),
        (lambda t, a: (t / "model.safetensors").rename(t / "pytorch_model.bin"), "only pytorch_model.bin, which"),
        (lambda t, a: (t / "model.safetensors").write_bytes(b"abc"), "is no safetensors file, or cut off"),
        (lambda t, a: (t / "model.safetensors").write_bytes(b"\x10" + bytes(40)), "has a damaged header"),
        (lambda t, a: shutil.copytree(t, a, dirs_exist_ok=True), "not a Gemma 4 assistant"),
        (
            lambda t, a: edit(a / "config.json", lambda f: f.update(backbone_hidden_size=1536)),
            "does not fit the target: hidden size 1536, the target has 256",
        ),
        (
            lambda t, a: edit(a / "config.json", lambda f: f["text_config"].update(vocab_size=5)),
            "does not fit the target: vocabulary 5",
        ),
        (
            lambda t, a: edit(a / "config.json", lambda f: f["text_config"].update(head_dim=32)),
            r"does not fit the target: sliding heads \(2, 32\)",
        ),
        (
            lambda t, a: edit(a / "config.json", lambda f: f["text_config"].update(global_head_dim=64)),
            r"does not fit the target: full heads \(2, 64\)",
        ),
    ],
)
def test_what_is_wrong_is_told(pair: tuple[Path, Path], break_it: Callable[[Path, Path], Any], said: str) -> None:
    break_it(*pair)
    found = problems(*pair)
    assert any(re.search(said, line) for line in found), found


def test_tokenizers_are_compared_by_what_their_ids_mean(pair: tuple[Path, Path]) -> None:
    target, assistant = pair
    shutil.copy(target / "tokenizer.json", assistant)
    assert "tokenizers are the same" in check_checkpoints(target, assistant)[-1].detail
    edit(assistant / "tokenizer.json", lambda fields: fields.update(padding={"later": True}))
    assert problems(target, assistant) == []
    edit(assistant / "tokenizer.json", lambda fields: fields["added_tokens"].pop())
    assert "different tokenizers" in problems(target, assistant)[0]


def test_a_draft_model_needs_the_targets_tokenizer(tmp_path: Path) -> None:
    shutil.copytree(POCKET / "draft_model", tmp_path / "draft")
    assert check_checkpoints(POCKET / "target", draft_model=tmp_path / "draft")[-1].state == "ok"
    edit(tmp_path / "draft" / "tokenizer.json", lambda fields: fields["added_tokens"].pop())
    assert check_checkpoints(POCKET / "target", draft_model=tmp_path / "draft")[-1].state == "problem"
