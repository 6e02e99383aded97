"""The accounting around HF generate; that it generates is transformers' business."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evaluation.load.hf_generate import Checkpoint, ForwardCounter, HfSystem, load_checkpoint, until_end
from evaluation.pocket.records import ask
from tests.support.equality import POCKET

EXAMPLES = [ask("prose", f"question {index}", "") for index in range(3)]
ANSWER = [5, 6, 7, 8, 9, 4, 1, 0, 0]  # seven tokens, the end token 1 among them, then padding


class StubModel(torch.nn.Module):
    """Generates a fixed answer; one forward pass prefills, three more verify when an assistant is given."""

    def __init__(self) -> None:
        super().__init__()
        self.generation_config = SimpleNamespace(eos_token_id=[1, 3])
        self.calls: list[dict[str, Any]] = []

    def forward(self) -> None:
        """Stands for a pass."""

    def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        self.calls.append({"num_prompts": input_ids.shape[0], **options})
        for _ in range(4 if "assistant_model" in options else 7):
            self()
        return torch.cat([input_ids, torch.tensor([ANSWER] * input_ids.shape[0])], dim=1)


class StubTokenizer:
    """Two prompt tokens for every text."""

    def __call__(self, texts: Sequence[str], **options: Any) -> dict[str, torch.Tensor]:
        assert options["padding_side"] == "left"
        assert options["add_special_tokens"] is False
        ids = torch.full((len(texts), 2), 2)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, tokens))


@pytest.fixture
def checkpoint() -> Checkpoint:
    model = StubModel()
    return Checkpoint(model=model, tokenizer=StubTokenizer(), counter=ForwardCounter(model))


def test_plain_batches_count_tokens_up_to_the_end(checkpoint: Checkpoint) -> None:
    sample = HfSystem(name="plain", checkpoint=checkpoint).measure(EXAMPLES, 2, 9)
    assert [call["num_prompts"] for call in checkpoint.model.calls] == [2, 1]
    assert all(call["max_new_tokens"] == 9 and call["do_sample"] is False for call in checkpoint.model.calls)
    assert sample.num_tokens == 3 * 7
    assert sample.acceptance_length is None
    assert sample.texts == ("5 6 7 8 9 4 1",) * 3


def test_assisted_rounds_leave_the_prefill_out(checkpoint: Checkpoint) -> None:
    assistant = object()
    system = HfSystem(name="assisted", checkpoint=checkpoint, assistant=assistant)
    for _ in range(2):  # the counter starts over
        sample = system.measure(EXAMPLES, 1, 9)
    assert checkpoint.model.calls[0]["assistant_model"] is assistant
    assert sample.num_rounds == 3 * 3
    assert sample.num_accepted_tokens == 3 * 3  # seven tokens: one from the prefill, three rounds' own, three accepted
    assert sample.acceptance_length == 2.0
    assert system.max_streams == 1


def test_a_checkpoint_is_loaded_and_asked_where_and_as_what_it_was_told(checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(POCKET / "target", device="cpu", dtype=torch.bfloat16)
    assert loaded.model.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="meta"):  # the stub's answer is not where the prompt has been put
        HfSystem(name="elsewhere", checkpoint=replace(checkpoint, device="meta")).measure(EXAMPLES, 1, 9)


def test_rows_end_at_the_first_end_token() -> None:
    ends = frozenset({1, 3})
    assert until_end([5, 3, 1, 0], ends) == [5, 3]
    assert until_end([5, 6], ends) == [5, 6]
    assert until_end([1, 0], ends) == [1]
