"""The tokenizer, the chat form and the packing of the pocket models."""

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from evaluation.pocket.packing import Document, batches, causal_masks, encode
from evaluation.pocket.prompts import held_out
from evaluation.pocket.records import TASKS, Task, render
from evaluation.pocket.shapes import FULL, SLIDING, SLIDING_WINDOW
from evaluation.pocket.tokenizer import SPECIAL_TOKENS, TURN_END, VOCAB_SIZE, train_tokenizer

TEXTS = (
    "plain words, 12345 digits\n",
    "  leading and trailing  ",
    "tabs\tand\r\nline ends\n\n\n    indent\n",
    "naïve café, Straße, Ελληνικά, русский",
    "日本語と中文、한국어",
    "emoji 👩‍👩‍👧 🇩🇪 and ▁ itself",
    "\u0000 control \u200b zero width \ufeff",
    '{"key": [1, 2.50, "x\\"y"]}',
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(example.reference for task in TASKS for example in held_out(task, 80, seed=0))


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.unk_token_id not in tokens


def test_special_tokens_have_gemma_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(6))
    assert len(tokenizer) <= VOCAB_SIZE
    assert tokenizer("x").input_ids[0] == tokenizer.bos_token_id


def test_every_digit_is_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.tokenize("48000")
    assert tokens == list("48000")


def test_chat_template_writes_gemma_turns(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " Hi "},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": [{"type": "text", "text": "More"}]},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\nYes?<turn|>\n"
        "<|turn>user\nMore<turn|>\n<|turn>model\n"
    )


@pytest.mark.parametrize("task", TASKS)
def test_examples_render_as_the_template_does(tokenizer: PreTrainedTokenizerFast, task: Task) -> None:
    for example in held_out(task, 20, seed=2):
        messages = list(example.prompt_messages)
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert rendered == example.chat == render(example.prompt_messages)


def test_answers_end_with_the_end_of_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    document = encode(held_out("structured", 1, seed=0)[0], tokenizer)
    assert document.tokens[-1] == TURN_END
    assert len(document.tokens) == len(document.weights)


def endless() -> Iterator[Document]:
    while True:
        yield Document(tokens=list(range(10, 310)), weights=[1.0] * 300)


def test_packed_documents_see_only_themselves() -> None:
    batch = next(batches(endless(), num_rows=2, length=700))
    masks = causal_masks(batch)
    full, sliding = masks[FULL][0, 0], masks[SLIDING][0, 0]
    assert batch.positions_BT[0, 300] == 0
    assert not full[300, :300].any()
    assert full[299, :300].all()
    assert sliding[299].sum() == SLIDING_WINDOW
    assert not torch.triu(full, diagonal=1).any()
    assert batch.weights_BT[0, 0] == batch.weights_BT[0, 300] == 0.0
