"""Single tokens as text and bytes, special ones included."""

from __future__ import annotations

import pytest

from deployments.ingress.tokenizer import Tokenizer
from tests.support.tiny_tokenizer import END_OF_TURN, END_OF_TURN_ID, byte_fallback_tokenizer, byte_level_tokenizer

TOKENIZERS = [Tokenizer(byte_level_tokenizer(), None), Tokenizer(byte_fallback_tokenizer(), None)]
TEXTS = ["the quick brown fox", "a  b", "grüße 日本 🙂."]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["byte-level", "byte-fallback"])
def test_bytes_add_up_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    texts = tokenizer.token_texts
    ids = tokenizer.encode(text, add_special_tokens=False)
    whole = b"".join(texts.utf8(token) for token in ids).decode()
    assert whole.removeprefix(" ") == text  # sentencepiece puts a space before the first word


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["byte-level", "byte-fallback"])
def test_a_token_reads_as_within_a_text(tokenizer: Tokenizer) -> None:
    texts = tokenizer.token_texts
    (*_, last) = tokenizer.encode("x b", add_special_tokens=False)
    assert texts.text(last).strip() == "b"
    assert texts.text(END_OF_TURN_ID) == texts.name(END_OF_TURN_ID) == END_OF_TURN
    partial = tokenizer.encode("🙂", add_special_tokens=False)[-1]
    assert set(texts.text(partial)) == {"\ufffd"}
    assert texts.utf8(partial) == "🙂".encode()[-len(texts.utf8(partial)) :]
    assert texts.name(10**6) == ""


def test_verbatim_shows_what_decode_leaves_out() -> None:
    tokenizer = TOKENIZERS[0]
    ids = [*tokenizer.encode("fox", add_special_tokens=False), END_OF_TURN_ID]
    assert tokenizer.decode(ids) == "fox"
    assert tokenizer.verbatim.decode(ids) == "fox" + END_OF_TURN
    assert END_OF_TURN_ID not in tokenizer.verbatim.special_ids
