"""A larger target that says the same, from the folder that any peer would load."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma4ForCausalLM

from evaluation.pocket import __main__ as command
from evaluation.pocket import folders, reference_loop
from evaluation.pocket.inflate import inflated
from evaluation.pocket.prompts import held_out
from tests.support.equality import POCKET


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Two threads may cut a wider product at other places, and then sum in another order.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def target() -> Gemma4ForCausalLM:
    return folders.load_target(POCKET)


def some_tokens(length: int) -> torch.Tensor:
    return torch.randint(6, 4096, (1, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize(("intermediate_size", "num_extra_layers"), [(4096, 0), (768, 4), (1024, 3)])
@torch.no_grad()
def test_logits_are_unchanged(target: Gemma4ForCausalLM, intermediate_size: int, num_extra_layers: int) -> None:
    """In float64: some processors' products cut a longer sum at other places, which float32 shows in its last bit."""
    larger = inflated(target, intermediate_size, num_extra_layers).double()
    target = copy.deepcopy(target).double()
    assert larger.num_parameters() > target.num_parameters()
    assert larger.config.num_hidden_layers == 6 + num_extra_layers
    assert larger.config.layer_types[-6:] == target.config.layer_types
    for length in (1, 5, 300):  # 300 is past the sliding window
        tokens = some_tokens(length)
        torch.testing.assert_close(larger(tokens).logits, target(tokens).logits, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_added_weights_take_part_in_the_products(target: Gemma4ForCausalLM) -> None:
    larger = inflated(target, 1024, 1)
    new_layer, wider = larger.model.layers[0], larger.model.layers[1].mlp
    for weight in (new_layer.self_attn.q_proj.weight, new_layer.mlp.gate_proj.weight, wider.up_proj.weight[768:]):
        assert weight.abs().min() > 0 or weight.std() > 0.01
    assert not wider.down_proj.weight[:, 768:].any()
    wider.down_proj.weight[:, 768:] = 0.1
    assert not torch.equal(larger(some_tokens(5)).logits, target(some_tokens(5)).logits)


def test_the_command_writes_a_pair_that_loads_like_any_other_and_drafts_as_before(
    target: Gemma4ForCausalLM, tmp_path: Path
) -> None:
    sizes = ("--intermediate-size", "2048", "--extra-layers", "3")
    command.main(["inflate", "--source", str(POCKET), "--out", str(tmp_path), *sizes])
    larger = AutoModelForCausalLM.from_pretrained(tmp_path / "target", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "target")
    assistants = [folders.load_assistant(folder) for folder in (POCKET, tmp_path)]
    (example,) = held_out("code", 1, 0)
    prompt = tokenizer.encode(example.chat, add_special_tokens=False)
    before = reference_loop.generate(target, assistants[0], prompt, 5, 16)
    assert reference_loop.generate(larger, assistants[1], prompt, 5, 16) == before
    assert before.acceptance_length > 1.5


def test_it_can_only_grow_and_never_overwrites_its_source(target: Gemma4ForCausalLM) -> None:
    with pytest.raises(ValueError, match="can only grow, not shrink to 512"):
        inflated(target, 512)
    with pytest.raises(SystemExit):
        command.main(["inflate", "--out", str(POCKET), "--source", str(POCKET)])
