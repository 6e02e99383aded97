"""Masks of a grammar over the pocket pair's tokens: what they allow, and that nothing asked before changes them."""

from __future__ import annotations

import random
import string
from pathlib import Path

import numpy as np
import pytest
import regex
from llguidance import LLMatcher

from deployments import grammars as grammars_module
from deployments.grammars import MAX_GRAMMAR_CHARS, Grammars, GrammarState
from tests.support.grammar_reference import ENDS, TARGET, allowed, vocabulary
from tests.support.tiny_tokenizer import byte_fallback_tokenizer

EVERYTHING = set(range(4096))
PATTERNS = [r"[A-Z][a-z]{1,9}( [a-z]{1,9}){0,3}[.]", r"[0-9]{3}-[0-9]{4}", r"(ab|abc|b+)x?", r"(yes|no|maybe so)"]
# Much of it is certain to come, and then there is one token for it.
RECORD = LLMatcher.grammar_from_json_schema(
    {
        "type": "object",
        "properties": {"identifier": {"type": "integer"}, "description": {"enum": ["available", "unavailable", None]}},
        "required": ["identifier", "description"],
        "additionalProperties": False,
    }
)
NUMBER = LLMatcher.grammar_from_regex(PATTERNS[1])


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars.load(TARGET)


def bits(mask_Q: np.ndarray) -> set[int]:
    return set(np.nonzero(np.unpackbits(mask_Q, bitorder="little"))[0].tolist())


def walk(grammar: str, rng: random.Random, most: int = 12) -> list[int]:
    """A random beginning of what the grammar describes."""
    output: list[int] = []
    while len(output) < most and (choices := sorted(allowed(grammar, output) - set(ENDS))):
        output.append(rng.choice(choices))
    return output


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mask_has_the_tokens_after_which_the_pattern_can_still_be_matched(grammars: Grammars, pattern: str) -> None:
    """By the regex package's partial matching. Of what is certain to come only the usual token is there."""
    grammar, rng = LLMatcher.grammar_from_regex(pattern), random.Random(3)
    texts = {token: vocabulary().decode_str([token]) for token in EVERYTHING - set(ENDS)}
    plain = {token: text for token, text in texts.items() if text.isascii() and set(text) <= set(string.printable)}
    for _ in range(4):
        output = walk(grammar, rng)
        state = grammars.begin(grammar)
        for length in range(len(output) + 1):
            so_far = vocabulary().decode_str(output[:length])
            found = bits(state.masks((), 1)[0])
            matching = {
                token for token, text in plain.items() if text and regex.fullmatch(pattern, so_far + text, partial=True)
            }
            assert found - set(ENDS) <= matching
            assert found - set(ENDS) == matching or len(found) == 1, f"after {so_far!r}"
            assert (found >= set(ENDS)) is bool(regex.fullmatch(pattern, so_far))
            state.extend(output[length : length + 1])


def test_whatever_was_asked_before_the_masks_are_those_of_a_new_parser(grammars: Grammars) -> None:
    """Random orders of growing, shrinking and looking ahead, along what the grammar allows and beside it."""
    rng = random.Random(11)
    for grammar in [RECORD, *map(LLMatcher.grammar_from_regex, PATTERNS)] * 3:
        state, output = grammars.begin(grammar), []
        right = walk(grammar, rng)
        for _ in range(8):
            length = rng.randrange(len(right) + 1)
            state.truncate(min(length, len(output)))
            state.extend(right[len(output[:length]) : length])
            output = right[:length]
            following = [*right[length : length + rng.randrange(4)], *rng.choices(range(6, 4096), k=rng.randrange(3))]
            num_rows = rng.randrange(1, len(following) + 2)
            masks_PQ = state.masks(following, num_rows)
            for row in range(num_rows):
                prefix = [*output, *following[: len(following) + 1 - num_rows + row]]
                is_beginning = LLMatcher(vocabulary(), grammar).validate_tokens(prefix) == len(prefix)
                assert bits(masks_PQ[row]) == (allowed(grammar, prefix) if is_beginning else EVERYTHING)


def test_what_comes_after_the_end_is_not_looked_at(grammars: Grammars) -> None:
    state = grammars.begin(LLMatcher.grammar_from_regex("a"))
    masks_PQ = state.masks([vocabulary().tokenize_str("a")[0], ENDS[0], 77], 4)
    assert bits(masks_PQ[1]) == set(ENDS)
    assert bits(masks_PQ[2]) == bits(masks_PQ[3]) == EVERYTHING


def test_an_answer_whose_parsing_takes_too_much_ends(grammars: Grammars, caplog: pytest.LogCaptureFixture) -> None:
    """And goes on as if nothing had been, where what took too much was a guess that did not hold."""
    compiled = Failing()
    state = GrammarState(compiled, ENDS, 4096)  # type: ignore[arg-type]
    state.extend([10, 11])
    assert bits(state.masks([12, 13], 3)[2]) == set(ENDS)
    assert "cannot be followed: too much" in caplog.text
    assert bits(state.masks((), 1)[0]) == EVERYTHING
    state.extend([12, 13])
    assert bits(state.masks((), 1)[0]) == set(ENDS)


class Failing:
    """A parser that allows everything until it is at its fourth token; it stays in its error, as llguidance's does."""

    def __init__(self) -> None:
        self.num_tokens = 0
        self.has_failed = False

    def deep_copy(self) -> Failing:
        return Failing()

    def try_consume_tokens(self, tokens: list[int]) -> int:
        self.num_tokens += len(tokens)
        return len(tokens)

    def compute_bitmask(self) -> bytes:
        self.has_failed = self.has_failed or self.num_tokens >= 4
        return b"\xff" * 512

    def rollback(self, num_tokens: int) -> bool:
        assert not self.has_failed
        self.num_tokens -= num_tokens
        return True

    def is_error(self) -> bool:
        return self.has_failed

    def get_error(self) -> str:
        return "too much" if self.has_failed else ""


@pytest.mark.parametrize(
    ("grammar", "part"),
    [
        (LLMatcher.grammar_from_regex("(a"), "unclosed group"),
        (LLMatcher.grammar_from_json_schema('{"type": "strin"}'), "Invalid type: strin"),
        (LLMatcher.grammar_from_json_schema('{"if": {}}'), 'Unimplemented keys: ["if"]'),
        (LLMatcher.grammar_from_lark("start: nothing"), "unknown name"),
        (LLMatcher.grammar_from_regex("a" * MAX_GRAMMAR_CHARS), "at most 131072"),
    ],
    ids=["regex", "type", "keyword", "rule", "long"],
)
def test_an_objection_says_on_one_line_what_is_wrong(grammars: Grammars, grammar: str, part: str) -> None:
    objection = grammars.objection(grammar)
    assert objection is not None
    assert part in objection
    assert "\n" not in objection
    assert len(objection) <= 300
    assert grammars.objection(NUMBER) is None


def test_grammars_that_were_not_asked_for_lately_are_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def compile_it(tokenizer: object, grammar: str, **options: object) -> LLMatcher:
        compiled.append(grammar)
        return LLMatcher(tokenizer, grammar, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(grammars_module, "LLMatcher", compile_it)
    monkeypatch.setattr(grammars_module, "_NUM_KEPT", 2)
    own = Grammars.load(TARGET)
    made = [LLMatcher.grammar_from_regex(pattern) for pattern in PATTERNS[:3]]
    for grammar in (made[0], made[1], made[0], made[2], made[0], made[1]):
        own.begin(grammar)
    assert compiled == [made[0], made[1], made[2], made[1]]


def test_characters_that_come_as_bytes_are_allowed_byte_by_byte(tmp_path: Path) -> None:
    """In a vocabulary in the manner of sentencepiece, as Gemma's is."""
    tokenizer = byte_fallback_tokenizer()
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    (tmp_path / "config.json").write_text(f'{{"vocab_size": {tokenizer.get_vocab_size() + 40}, "eos_token_id": 1}}')
    state = Grammars.load(tmp_path).begin(LLMatcher.grammar_from_regex("[日本語ü ]{3,9}[.]"))
    tokens = tokenizer.encode("日本 ü語.", add_special_tokens=False).ids[1:]  # what begins is written with a blank
    assert len(tokens) == 12
    for token in tokens:
        assert token in bits(state.masks((), 1)[0])
        state.extend([token])
    assert bits(state.masks((), 1)[0]) == {1}


def test_a_folder_without_a_vocabulary_gives_none_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.json").write_text('{"vocab_size": 4096, "eos_token_id": 1}')
    assert Grammars.load_if_possible(tmp_path) is None
    assert "no structured outputs" in caplog.text
    (tmp_path / "config.json").write_text('{"vocab_size": 4096}')
    with pytest.raises(ValueError, match="which token ends"):
        Grammars.load(tmp_path)
