"""What kind of text a request asks for, as far as that tells how well it can be drafted.

Only a first guess: a few rounds of evidence override it (acceptance.py), so a handful of words must do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import get_args

from deployments.messages import RequestClass

REQUEST_CLASSES: tuple[RequestClass, ...] = get_args(RequestClass)

MAX_CHARS = 4000
"""Of a longer text its first and last halves of this are read: the task stands at either end."""
_HOT = 1.1
"""Temperatures from here on are asked for by those who want to be surprised."""

_WORDS: Mapping[RequestClass, tuple[tuple[float, str], ...]] = {
    "structured": (
        (3, r"\b(?:json|yaml|xml|csv|toml|tsv)\b"),
        (2, r"\b(?:schema|key[- ]value|columns?|rows?|fields?|records?|table|spreadsheet|form)\b"),
        (2, r"\b(?:extract|parse|convert|transcribe|fill in|tabulate|enumerate|tag|label|classify)\b"),
        (1, r"\b(?:return|output|respond with) (?:only|just|an?|the|as)\b"),
        (1, r"\b(?:dates?|amounts?|names?|addresses|prices?|invoice|receipt|contract)\b.*\b(?:as|into|in)\b"),
    ),
    "code": (
        (4, r"```|\bdef \w+\(|\bclass \w+[:({]|\bimport \w+|#include|\bSELECT\b .* \bFROM\b|=>|\bconst \w+ ="),
        (
            3,
            r"\b(?:python|javascript|typescript|java|rust|golang|c\+\+|kotlin|sql|bash|shell|regex|dockerfile|html|css)\b",
        ),
        (
            2,
            r"\b(?:function|method|class|script|code|unit tests?|api|endpoint|query|loop|recursive|decorator)\b",
        ),
        (2, r"\b(?:implement|refactor|debug|compile|bug|stack trace|exception|traceback|type hints?|docstring)\b"),
    ),
    "creative": (
        (
            4,
            r"\b(?:poem|haiku|limerick|sonnet|lyrics|song|fairy ?tale|fable|screenplay|ballad)\b",
        ),
        (3, r"\b(?:story|fiction|novel|protagonist|monologue|tale|verse|rhym\w+|slogans?|tagline|myth|legend)\b"),
        (
            2,
            r"\b(?:imagine|invent|make up|dream up|whimsical|dialogue|scene|villain|dragon|wizard|joke|pun)\b",
        ),
        (1, r"\b(?:funny|playful|surreal|magical|romantic|mysterious|haunted)\b"),
    ),
    "reasoning": (
        (4, r"\bstep[- ]by[- ]step\b|\bshow your (?:work|reasoning|working)\b|\bthink (?:it )?through\b"),
        (
            3,
            r"\b(?:prove|proof|solve|calculate|compute|derive|deduce|infer|probability|equation|puzzle|riddle|theorem)\b",
        ),
        (
            2,
            r"\bhow (?:many|much|long|far|old|fast)\b|\bwhat is the (?:sum|product|chance|remainder|smallest)\b",
        ),
        (
            2,
            r"\b(?:logic(?:al(?:ly)?)?|integer|divisible|per ?cent|%|average speed|knights?|liars?|odds|weigh\w*)\b",
        ),
        (1, r"\b(?:if|suppose|given that|assume)\b.*\?"),
        (1, r"\d+.*\d+.*\?"),
    ),
    "prose": (
        (
            3,
            r"\b(?:essay|article|e-?mail|letter|blog post|report|summar\w+|paragraphs?|memo|press release|biography)\b",
        ),
        (
            2,
            r"\b(?:explain|describe|discuss|translate|rewrite|rephrase|proofread|paraphrase|advice|introduce|outline)\b",
        ),
        (1, r"\b(?:what is|what are|why (?:do|does|is|are|did)|how (?:do|does|did|can|should))\b"),
        (1, r"\b(?:history|polite|formal|customers?|colleagues?|readers?|audience)\b"),
    ),
}
_PATTERNS = {
    name: [(weight, re.compile(pattern, re.IGNORECASE)) for weight, pattern in patterns]
    for name, patterns in _WORDS.items()
}


def classify(
    text: str, *, wants_schema: bool = False, has_tools: bool = False, temperature: float | None = None
) -> RequestClass:
    """The likeliest class of a request's output, from the prompt or its latest messages and its parameters."""
    if wants_schema or has_tools:
        return "structured"
    if len(text) > MAX_CHARS:
        text = text[: MAX_CHARS // 2] + "\n" + text[-MAX_CHARS // 2 :]
    scores = {
        name: sum(weight * min(2, len(pattern.findall(text))) for weight, pattern in patterns)
        for name, patterns in _PATTERNS.items()
    }
    scores["prose"] += 0.5  # what says nothing of itself
    if temperature is not None and temperature >= _HOT:
        scores["creative"] += 1.5
    return max(REQUEST_CLASSES, key=scores.__getitem__)
