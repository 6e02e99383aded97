"""Rare edge cases: one fact of the question becomes an unusual one, and the expected answer follows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

from evaluation.quality.families.anatomy import dissect
from evaluation.quality.families.facts import Fact, Kind, exchange, shared_facts
from evaluation.quality.families.family import Refused, Rewrite
from evaluation.quality.suite import JsonValue

NUMBERS: dict[str, tuple[int, ...]] = {
    "zero": (0,),
    "one": (1,),
    "a huge number": (10**9 + 7, 2**31, 10**12, 987_654_321_012, 2**53 + 1),
    "nines": (99_999, 9_999_999),
}
DATES: dict[str, tuple[str, ...]] = {
    "a leap day": ("2096-02-29", "1904-02-29", "2000-02-29"),
    "the last day of a year": ("1999-12-31", "2099-12-31"),
    "a very old date": ("1582-10-15", "1752-09-14", "1066-10-14"),
    "a very late date": ("9999-12-31", "2999-01-01"),
}
NAMES: dict[str, tuple[str, ...]] = {
    "another alphabet": ("株式会社山田", "Ελληνικά Νερά", "Северный Ветер", "שמש"),
    "accents": ("Łódź Żółw", "Ñandú Søn", "Čapek Šťastný", "Zoë Brontë"),
    "punctuation": ("O'Neill & Söhne", "Smith-Jones-Smythe", "A. B. C. d'Arc", "Yes!"),
    "one letter": ("X", "Q"),
    "a long name": (
        "The Most Excellent and Honourable Society of Merchants, Shipwrights and Lighthouse Keepers of the Far "
        "Northern Isles and Adjacent Waters",
        "Taumatawhakatangihangakoauauotamateaturipukakapikimaungahoronukupokaiwhenuakitanatahu",
    ),
}
UNUSUAL: dict[Kind, Mapping[str, Sequence[str | int]]] = {"number": NUMBERS, "date": DATES, "name": NAMES}
EMPTY_RULE = "If a field is empty, its value in the answer is an empty string."


class EdgeCases:
    """Puts zero, a huge number, an unusual date, a long, foreign or empty text in the place of one fact."""

    name = "edge_case"
    invariant = "The task, the wording and all other facts; the one exchanged is the same in question and answer."

    def rewrite(self, text: str, expected: JsonValue, random: Random) -> Rewrite:
        facts = shared_facts(text, expected)
        if not facts:
            raise Refused("no fact stands once in the question and once in the expected answer")
        fact = random.choice(facts)
        if random.random() < 0.2 and (emptied := emptied_field(facts, text, expected, random)) is not None:
            return emptied
        kind, value = unusual(fact, random)
        rewritten, answer = exchange(fact, value, text, expected)
        where = f" as {fact.label}" if fact.label else ""
        return Rewrite(text=rewritten, expected=answer, change=f"{kind}{where}")


def unusual(fact: Fact, random: Random) -> tuple[str, str | int]:
    """Draw (what it is, the value) of the fact's kind, another value than it has."""
    kind, values = random.choice(sorted(UNUSUAL[fact.kind].items()))
    others = [value for value in values if value != fact.value]
    return (kind, random.choice(others)) if others else unusual(fact, random)


def emptied_field(facts: Sequence[Fact], text: str, expected: JsonValue, random: Random) -> Rewrite | None:
    """Empty a labelled line whose value is a text field of the answer, and say what that means; None without one."""
    ends = [
        (fact, match)
        for fact in facts
        if fact.kind == "name" and fact.path
        if (match := re.search(rf"(?<=[:=]) {re.escape(fact.spelling)}[ \t]*$", text, flags=re.MULTILINE))
    ]
    question = dissect(text)
    if not ends or not question.instruction:
        return None
    fact, match = random.choice(ends)
    _, answer = exchange(fact, "", text, expected)
    emptied = dissect(text[: match.start()] + text[match.end() :])
    ruled = emptied.but(instruction=f"{emptied.instruction} {EMPTY_RULE}")
    return Rewrite(text=ruled.text, expected=answer, change=f"nothing as {fact.label}")
