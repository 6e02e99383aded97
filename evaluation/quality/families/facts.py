"""Facts that a question and its expected answer share, how they are spelled, and how another would be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal

from evaluation.pocket.records import words
from evaluation.quality.families.anatomy import looks_like_code
from evaluation.quality.suite import JsonValue

Kind = Literal["number", "date", "name"]
Step = str | int

MONTHS = words("January February March April May June July August September October November December")
WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
NUMBER = re.compile(r"(?<![\w.,:-])\d{2,}(?![\w:-]|[.,]\d)")
# Names in running text: capitalised words, none of which begins a sentence.
NAMES = re.compile(r"(?<=[\w,;:] )[A-Z][\w'\u2019-]+(?: [A-Z][\w'\u2019-]+)*")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something that stands once in the question and once in the expected answer.

    `path` leads to it in a JSON answer and is empty in a text; `spelling` is how the question writes it, `style` which
    of the kind's spellings that is.
    """

    kind: Kind
    value: str | int
    spelling: str
    style: int = 0
    path: tuple[Step, ...] = ()

    @property
    def label(self) -> str:
        """The field's name as a person would say it; empty in a text."""
        return label_of(self.path)


def label_of(path: tuple[Step, ...]) -> str:
    """Say a path as a person would."""
    return " ".join(str(step) for step in path).replace("_", " ")


def shared_facts(text: str, expected: JsonValue) -> list[Fact]:
    """Find the facts that can be exchanged in question and answer alike without touching anything else."""
    if looks_like_code(text):
        return []
    if isinstance(expected, str):
        return [
            fact for fact in text_facts(expected) if is_once(fact.spelling, text) and is_once(fact.spelling, expected)
        ]
    leaves = list(leaves_of(expected))
    found = []
    for path, leaf in leaves:
        fact = field_fact(path, leaf, text)
        if fact is not None and sum(other == leaf for _, other in leaves) == 1:
            found.append(fact)
    return found


def text_facts(expected: str) -> Iterator[Fact]:
    """Yield the numbers and names of an expected text; days and months are left alone."""
    for match in NUMBER.finditer(expected):
        yield Fact(kind="number", value=int(match[0]), spelling=match[0])
    for match in NAMES.finditer(expected):
        if not {*match[0].split()} & {*WEEKDAYS, *MONTHS}:
            yield Fact(kind="name", value=match[0], spelling=match[0])


def leaves_of(expected: JsonValue, path: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], JsonValue]]:
    """Yield (path, value) of every scalar in a JSON value."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            yield from leaves_of(value, (*path, key))
    elif isinstance(expected, list):
        for index, value in enumerate(expected):
            yield from leaves_of(value, (*path, index))
    else:
        yield path, expected


def field_fact(path: tuple[Step, ...], leaf: JsonValue, text: str) -> Fact | None:
    """Find how a question spells a field; None unless it does so exactly once."""
    if isinstance(leaf, bool) or not isinstance(leaf, str | int) or leaf == "":
        return None
    kind: Kind = "number" if isinstance(leaf, int) else "date" if ISO_DATE.fullmatch(leaf) else "name"
    # Two styles may spell a value alike (999 has no thousands).
    styles = {spelling: style for style, spelling in reversed(list(enumerate(spellings(kind, leaf))))}
    found = [spelling for spelling in styles if pattern(spelling).search(text)]
    if len(found) != 1 or not is_once(found[0], text):
        return None
    return Fact(kind=kind, value=leaf, spelling=found[0], style=styles[found[0]], path=path)


def spellings(kind: Kind, value: str | int) -> tuple[str, ...]:
    """Return the ways in which a question may write a value, in the order of `Fact.style`."""
    if kind == "number":
        return (f"{value:,}", str(value))
    if kind == "name":
        return (str(value),)
    try:
        day = date.fromisoformat(str(value))
    except ValueError:
        return (str(value),)
    month = MONTHS[day.month - 1]
    return (
        str(value),
        f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{month} {day.day} {day.year}",
        f"{day.day:02d}.{day.month:02d}.{day.year}",
    )


def exchange(fact: Fact, value: str | int, text: str, expected: JsonValue) -> tuple[str, JsonValue]:
    """Write another value in the fact's place, spelled in its style, in the question and in the answer."""
    ways = spellings(fact.kind, value)
    return replace_once(fact.spelling, ways[min(fact.style, len(ways) - 1)], text), answer_with(fact, value, expected)


def answer_with(fact: Fact, value: str | int, expected: JsonValue) -> JsonValue:
    """Return the expected answer with another value in the fact's place."""
    if isinstance(expected, str):
        return replace_once(fact.spelling, str(value), expected)
    changed: JsonValue = json.loads(json.dumps(expected))
    place = changed
    for step in fact.path[:-1]:
        place = place[step]  # type: ignore[index]
    place[fact.path[-1]] = value  # type: ignore[index]
    return changed


def pattern(spelling: str) -> re.Pattern[str]:
    """Match a spelling where it stands alone: not inside a word, a longer number or a longer date."""
    escaped = re.escape(spelling)
    if spelling[0].isdigit():
        return re.compile(rf"(?<![\w.,-])(?<!\d ){escaped}(?!\w|[.,:-]\d)")
    return re.compile(rf"(?<!\w){escaped}(?!\w)")


def is_once(spelling: str, text: str) -> bool:
    return len(pattern(spelling).findall(text)) == 1


def replace_once(spelling: str, other: str, text: str) -> str:
    return pattern(spelling).sub(lambda _: other, text, count=1)
