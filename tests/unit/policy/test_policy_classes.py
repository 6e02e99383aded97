"""Requests are told apart by a handful of words; docs/speculation.md has this confusion table."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from deployments.policy.classes import MAX_CHARS, REQUEST_CLASSES, classify

ROOT = Path(__file__).resolve().parents[3]
PROMPTS: dict[str, list[str]] = json.loads((ROOT / "tests" / "data" / "request_classes.json").read_text("utf-8"))


def confusion() -> dict[str, Counter[str]]:
    return {name: Counter(classify(prompt) for prompt in PROMPTS[name]) for name in REQUEST_CLASSES}


@pytest.mark.parametrize("name", REQUEST_CLASSES)
def test_most_prompts_are_read_right(name: str):
    assert len(set(PROMPTS[name])) >= 30
    assert confusion()[name][name] >= 0.9 * len(PROMPTS[name])


def test_the_documented_table_is_this_one():
    rows = [
        f"| {name} | " + " | ".join(str(counts[other]) for other in REQUEST_CLASSES) + " |"
        for name, counts in confusion().items()
    ]
    documented = (ROOT / "docs" / "speculation.md").read_text("utf-8")
    for row in rows:
        assert row in documented


def test_parameters_outweigh_words():
    assert classify("Write a poem", wants_schema=True) == "structured"
    assert classify("Write a poem", has_tools=True) == "structured"
    assert classify("Something about rivers") == "prose"
    assert classify("Something about rivers", temperature=1.4) == "creative"


def test_the_task_is_found_at_either_end_of_a_long_text():
    filler = "lorem ipsum dolor sit amet " * MAX_CHARS
    assert classify("Return the terms as JSON.\n" + filler) == "structured"
    assert classify(filler + "\nWrite a Python function for this.") == "code"
