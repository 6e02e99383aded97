"""Why `transformers < 5.23`: 5.23.0 cannot construct any Gemma 4 assistant, and when that ends.

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
CEILING = Version("5.23")

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


def test_the_pin_holds_and_what_it_allows_constructs_an_assistant() -> None:
    dependencies = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    (pin,) = [r for r in map(Requirement, dependencies) if r.name == "transformers"]
    assert pin.specifier.contains("5.22.2")
    assert not pin.specifier.contains(CEILING), "see the module docstring before lifting the ceiling"
    assert pin.specifier.contains(transformers.__version__), "the installed transformers is outside the pin"
    exec(CONSTRUCT, {})


@pytest.mark.system
def test_the_newest_release_still_cannot_construct_an_assistant(tmp_path: Path) -> None:
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*install, f"transformers>={CEILING}"], check=True)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CONSTRUCT}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    newest = next(tmp_path.glob("transformers-*.dist-info")).name
    assert "constructed" not in result.stdout, f"{newest} constructs an assistant: lift the ceiling in pyproject.toml"
    assert "imported" in result.stdout, f"{newest} does not even import, so this tells nothing:\n{result.stderr}"
    assert "kv_sharing_modes" in result.stderr, f"{newest} fails for another reason:\n{result.stderr}"
