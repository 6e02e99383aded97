"""Why not transformers 5.23.0: it cannot construct any Gemma 4 assistant.

`kv_sharing_modes` raises there when all layers share their keys and values, as an assistant's do.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import transformers
from packaging.requirements import Requirement
from packaging.version import Version

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
BROKEN = Version("5.23.0")

CONSTRUCT = """
from transformers import Gemma4AssistantConfig, Gemma4AssistantForCausalLM, Gemma4TextConfig, __version__
text_config = Gemma4TextConfig(
    vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_kv_shared_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=8, layer_types=["sliding_attention", "full_attention"],
    hidden_size_per_layer_input=0, vocab_size_per_layer_input=0,
)
config = Gemma4AssistantConfig(text_config=text_config.to_dict(), backbone_hidden_size=32)
print("imported", __version__, flush=True)
Gemma4AssistantForCausalLM(config)
print("constructed")
"""


def test_what_the_pin_allows_constructs_an_assistant() -> None:
    dependencies = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    (pin,) = [r for r in map(Requirement, dependencies) if r.name == "transformers"]
    assert not pin.specifier.contains(BROKEN), "see the module docstring before lifting this"
    assert pin.specifier.contains(transformers.__version__), "the installed transformers is outside the pin"
    exec(CONSTRUCT, {})


@pytest.mark.system
def test_the_excluded_release_cannot_construct_an_assistant(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, f"transformers=={BROKEN}"], check=True)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CONSTRUCT}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"imported {BROKEN}" in result.stdout, result.stderr
    assert "constructed" not in result.stdout
    assert "kv_sharing_modes" in result.stderr
