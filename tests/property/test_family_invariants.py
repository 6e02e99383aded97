"""What every variant keeps, whatever the case: facts, the expected answer or all of it but one value, and itself."""

from __future__ import annotations

import json
import re
from collections import Counter
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evaluation.pocket.contracts import VARIANTS, draw_contract, extraction
from evaluation.pocket.notes import REQUESTS as NOTE_REQUESTS
from evaluation.pocket.notes import SUMMARY, TEMPLATES, draw_facts
from evaluation.quality.families import Ambiguity, EdgeCases, Formatting, Paraphrase, Refused, Rewrite
from evaluation.quality.families.anatomy import bare_words, protected_words
from evaluation.quality.families.facts import leaves_of
from evaluation.quality.suite import JsonValue

Pair = tuple[str, JsonValue]

# What an example takes depends on what else the machine does.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The numbers of a numbered list and the head of a table belong to the layout.
LAYOUT = re.compile(r"^\d+\. |^\| Item \| Value \|$", flags=re.MULTILINE)
LABELS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=9)
VALUES = st.one_of(
    st.integers(10, 10**9),
    st.dates().map(lambda day: day.isoformat()),
    st.text("ABCDEFGHabcdefghÄÖé&'", min_size=3, max_size=12).filter(lambda text: text[0].isalpha()),
)


def contract(seed: int) -> Pair:
    random = Random(seed)
    variant = random.choice(VARIANTS)
    example = extraction(draw_contract(random, variant), variant, random)
    return example.prompt_messages[-1]["content"], json.loads(example.reference)


def note(seed: int) -> Pair:
    random = Random(seed)
    facts = draw_facts(random)
    text = f"{random.choice(NOTE_REQUESTS)}\n\n{random.choice(TEMPLATES).format(**facts)}"
    return text, SUMMARY.format(**facts)


def form(fields: dict[str, str | int]) -> Pair:
    lines = "\n".join(f"{label.title()}: {value}" for label, value in fields.items())
    return f"Return the fields as JSON.\n\n{lines}", dict(fields)


SEEDS = st.integers(0, 2**32)
PAIRS = st.one_of(
    SEEDS.map(contract),
    SEEDS.map(note),
    st.dictionaries(LABELS, VALUES, min_size=3, max_size=6).map(form),
)


def rewritten(family: object, pair: Pair, seed: int) -> Rewrite | None:
    try:
        return family.rewrite(*pair, Random(seed))  # type: ignore[attr-defined,no-any-return]
    except Refused:
        return None


def numbers(text: str) -> Counter[str]:
    return Counter(re.findall(r"\d+", text))


def leaves(expected: JsonValue) -> dict[object, JsonValue]:
    return dict(leaves_of(expected))


@settings(UNTIMED)
@given(PAIRS, SEEDS)
def test_a_paraphrase_keeps_numbers_taken_words_and_the_answer(pair: Pair, seed: int) -> None:
    made = rewritten(Paraphrase(), pair, seed)
    assert made is not None
    assert made.expected == pair[1]
    assert numbers(made.text) == numbers(pair[0])
    before, after = Counter(bare_words(pair[0])), Counter(bare_words(made.text))
    instruction_words = {"json"}  # may be said once more or less in the instruction, and stands in no field
    for word in protected_words(pair[0].partition("\n\n")[2] or pair[0], pair[1]) - instruction_words:
        assert after[word] >= before[word], word


@settings(UNTIMED)
@given(PAIRS, SEEDS)
def test_a_new_format_keeps_every_value_and_the_answer(pair: Pair, seed: int) -> None:
    made = rewritten(Formatting(), pair, seed)
    assert made is not None
    assert made.expected == pair[1]
    content = LAYOUT.sub("", pair[0])
    assert not numbers(content) - numbers(made.text)
    if isinstance(pair[1], dict):
        for leaf in leaves(pair[1]).values():
            # JSON may escape a quotation mark; such values are never laid out as JSON.
            assert content.count(str(leaf)) <= made.text.count(str(leaf)), leaf
    before, after = Counter(bare_words(content)), Counter(bare_words(made.text))
    assert not before - after


@settings(UNTIMED)
@given(PAIRS, SEEDS)
def test_an_edge_case_changes_one_fact_in_question_and_answer(pair: Pair, seed: int) -> None:
    made = rewritten(EdgeCases(), pair, seed)
    if made is None:
        return
    if isinstance(pair[1], str):
        assert isinstance(made.expected, str)
        assert made.expected != pair[1]
        return
    before, after = leaves(pair[1]), leaves(made.expected)
    assert before.keys() == after.keys()
    changed = [path for path in before if before[path] != after[path]]
    assert len(changed) == 1
    if isinstance(after[changed[0]], str) and not re.fullmatch(r"\d{4}-\d\d-\d\d", str(after[changed[0]])):
        assert str(after[changed[0]]) in made.text
    if isinstance(after[changed[0]], int):
        assert f"{after[changed[0]]:,}" in made.text or str(after[changed[0]]) in made.text


@settings(UNTIMED)
@given(PAIRS, SEEDS)
def test_an_ambiguity_only_adds_and_changes_at_most_one_value(pair: Pair, seed: int) -> None:
    made = rewritten(Ambiguity(), pair, seed)
    if made is None:
        return
    assert not Counter(bare_words(pair[0])) - Counter(bare_words(made.text))
    assert re.search(r"(?:counts)\.", made.text)
    if isinstance(pair[1], dict):
        before, after = leaves(pair[1]), leaves(made.expected)
        assert sum(before[path] != after[path] for path in before) <= 1
        picks_other = "larger" in made.change or "smaller" in made.change or "er one" in made.change
        if "first" in made.change:
            assert made.expected == pair[1]
        if "last" in made.change:
            assert made.expected != pair[1]
        assert picks_other or "first" in made.change or "last" in made.change


@settings(UNTIMED, max_examples=30)
@given(PAIRS, SEEDS)
def test_the_same_seed_gives_the_same_variant(pair: Pair, seed: int) -> None:
    for family in (Paraphrase(), Formatting(), EdgeCases(), Ambiguity()):
        assert rewritten(family, pair, seed) == rewritten(family, pair, seed)
