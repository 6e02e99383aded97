"""Ambiguity resolution: two candidates for one fact, and a rule in the question that says which one counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random

from evaluation.quality.families.anatomy import dissect
from evaluation.quality.families.facts import Fact, answer_with, label_of, leaves_of, pattern, shared_facts, spellings
from evaluation.quality.families.family import Refused, Rewrite
from evaluation.quality.suite import Case, JsonValue

NAMES = (
    "Arden",
    "Brightwater",
    "Calloway",
    "Dunstable",
    "Ellery",
    "Fenwick",
    "Gransden",
    "Hathersage",
    "Ilkley",
    "Kirkwall",
)
THINGS = {"number": "figure", "date": "date", "name": "entry"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How to choose between the candidate that stood there and the second one."""

    words: str
    picks_second: bool


class Ambiguity:
    """Adds a second candidate for one fact and the rule that decides; by the rule the answer changes or not.

    `candidates` are values that a field may have, by its label; a field that is not there gets a made-up name.
    """

    name = "ambiguity"
    invariant = "The text of the question and all other facts; the answer has the candidate that the stated rule picks."

    def __init__(self, candidates: Mapping[str, Sequence[str]] | None = None) -> None:
        self._candidates = candidates or {}

    def rewrite(self, text: str, expected: JsonValue, random: Random) -> Rewrite:
        facts = [fact for fact in shared_facts(text, expected) if not any(isinstance(step, int) for step in fact.path)]
        if not facts:
            raise Refused("no single field or word stands once in the question and once in the expected answer")
        fact = random.choice(facts)
        second = candidate(fact, self._candidates.get(fact.label, ()), random)
        ways = spellings(fact.kind, second)
        spelling = ways[min(fact.style, len(ways) - 1)]
        if pattern(spelling).search(text):
            raise Refused("the second candidate stands in the question already")
        rule = random.choice(rules(fact, second))
        question = dissect(text)
        added = f"{announced(fact, spelling)} Where {plural(fact)}, {rule.words}."
        if question.material:
            gap = "\n" if "\n" in question.material else " "
            question = question.but(material=f"{question.material.rstrip()}{gap}{added}")
        else:
            question = question.but(instruction=f"{question.instruction.rstrip()} {added}")
        answer = answer_with(fact, second, expected) if rule.picks_second else expected
        where = f"two candidates for {fact.label}" if fact.label else f"two candidates for a {fact.kind}"
        return Rewrite(text=question.text, expected=answer, change=f"{where}: {rule.words}")


def candidates_of(cases: Iterable[Case]) -> dict[str, tuple[str, ...]]:
    """Collect, by label, the texts that fields have in the expected answers of a suite's own cases."""
    found: dict[str, set[str]] = {}
    for case in cases:
        if not isinstance(case.expected, str):
            for path, leaf in leaves_of(case.expected):
                if isinstance(leaf, str):
                    found.setdefault(label_of(path), set()).add(leaf)
    return {label: tuple(sorted(values)) for label, values in sorted(found.items())}


def candidate(fact: Fact, known: Sequence[str], random: Random) -> str | int:
    """Draw a second value of the fact's kind, such that neither looks wrong by itself."""
    if fact.kind == "number":
        value = int(fact.value)
        step = max(1, value // 10)
        others = [other for n in (-3, -2, -1, 1, 2, 3, 5) if (other := value + n * step) > 0]
        return random.choice(others)
    if fact.kind == "date":
        day = date.fromisoformat(str(fact.value))
        days = random.choice((-200, -45, -10, 10, 45, 200))
        in_range = date.min + timedelta(days=400) < day < date.max - timedelta(days=400)
        return (day + timedelta(days=days if in_range else 0)).isoformat()
    return random.choice([name for name in known if name != fact.value] or NAMES)


def announced(fact: Fact, spelling: str) -> str:
    if fact.label:
        return f"A second {THINGS[fact.kind]} is given for the {fact.label}: {spelling}."
    return f"For {fact.spelling}, another report has {spelling}."


def plural(fact: Fact) -> str:
    return f"two are given for the {fact.label}" if fact.label else "the two differ"


def rules(fact: Fact, second: str | int) -> tuple[Rule, ...]:
    """Return the rules that can decide between the two: by size or date, and by place for any kind."""
    by_place = (
        Rule(words="the one named first counts", picks_second=False),
        Rule(words="the one named last counts", picks_second=True),
    )
    if fact.kind == "number":
        is_larger = int(second) > int(fact.value)
        return (
            Rule(words="the larger one counts", picks_second=is_larger),
            Rule(words="the smaller one counts", picks_second=not is_larger),
            *by_place,
        )
    if fact.kind == "date":
        is_later = str(second) > str(fact.value)
        return (
            Rule(words="the later one counts", picks_second=is_later),
            Rule(words="the earlier one counts", picks_second=not is_later),
            *by_place,
        )
    return by_place
