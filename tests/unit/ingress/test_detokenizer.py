"""Incremental detokenizing adds up to decoding at once, and stop strings do not depend on how text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from deployments.ingress.detokenizer import Detokenizer, StopFilter
from deployments.ingress.tokenizer import Tokenizer
from tests.support.tiny_tokenizer import byte_fallback_tokenizer, byte_level_tokenizer

BYTE_LEVEL = Tokenizer(byte_level_tokenizer(), None)
BYTE_FALLBACK = Tokenizer(byte_fallback_tokenizer(), None)
TEXTS = ["hello there. a bee", "  two  spaces   three ", "grüße 日本語", "🙂👩‍👩‍👧 a🙂", "\n\n tabs\t", "", "x"]


def pieces_of(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.push(token) for token in ids), detokenizer.finish()]


def ids_of(tokenizer: FastTokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte-level", "byte-fallback"])
def test_pieces_add_up_to_decode(tokenizer: Tokenizer, text: str) -> None:
    ids = ids_of(tokenizer._fast, text)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 399), max_size=40))
def test_any_ids_of_a_byte_level_vocabulary_add_up_to_decode(ids: list[int]) -> None:
    assert "".join(pieces_of(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_survives_bytes_for_unknown_characters(text: str) -> None:
    ids = ids_of(BYTE_FALLBACK._fast, text)
    assert "".join(pieces_of(BYTE_FALLBACK, ids)) == BYTE_FALLBACK.decode(ids)


def test_an_emoji_comes_whole_with_its_last_byte() -> None:
    ids = ids_of(BYTE_FALLBACK._fast, "a🙂")
    assert len(ids) == 6  # ▁ a and four bytes
    assert pieces_of(BYTE_FALLBACK, ids) == ["", "a", "", "", "", "🙂", ""]


def test_half_a_character_at_the_end_is_what_decode_makes_of_it() -> None:
    ids = ids_of(BYTE_FALLBACK._fast, "a🙂")[:-1]
    pieces = pieces_of(BYTE_FALLBACK, ids)
    assert "".join(pieces[:-1]) == "a"
    assert "".join(pieces) == BYTE_FALLBACK.decode(ids)


def test_a_run_of_stray_bytes_is_not_held_back_for_ever() -> None:
    stray = ids_of(BYTE_FALLBACK._fast, "é")[-1]
    pieces = pieces_of(BYTE_FALLBACK, [stray] * 40)
    assert len("".join(pieces[:-1])) >= 40 - 3


def test_special_tokens_have_no_text_even_in_the_middle_of_a_word() -> None:
    ids = ids_of(BYTE_LEVEL._fast, "the fox")
    assert "".join(pieces_of(BYTE_LEVEL, [0, ids[0], 3, *ids[1:], 1])) == "the fox"


def reference(text: str, stops: list[str]) -> str:
    """Reads one character at a time: the first stop string to be complete ends the text, the longest of several."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.text("ab.", max_size=4), max_size=10),
    st.lists(st.text("ab.", min_size=1, max_size=4), max_size=4),
)
def test_stop_strings_end_the_same_text_however_it_is_cut(parts: list[str], stops: list[str]) -> None:
    stop_filter = StopFilter(stops)
    released = ""
    for part in parts:
        released += stop_filter.push(part)
        # Nothing that is out may turn out to belong to a stop string.
        assert reference("".join(parts), stops).startswith(released)
    released += stop_filter.finish()
    assert released == reference("".join(parts), stops)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    stop_filter = StopFilter(["\n\nUser:"])
    assert stop_filter.push("an answer\n") == "an answer"
    assert stop_filter.push("of two lines\n\nUs") == "\nof two lines"
    assert stop_filter.push("ing") == "\n\nUsing"
    assert stop_filter.push(".\n\nUser: more") == "."
    assert stop_filter.is_stopped
    assert stop_filter.push("text") == ""
