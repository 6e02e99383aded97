"""What a family is, and how variants are made of a suite's cases: by seed, every refusal counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

import msgspec

from evaluation.quality.suite import Case, ChatMessage, JsonValue


class Refused(ValueError):
    """A family cannot transform this case; the text says why, in the same words for the same reason."""


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """A new wording of a case's question, what a good answer to it is, and what was done, in a few words."""

    text: str
    expected: JsonValue
    change: str


class Family(Protocol):
    """One way to make a case harder without making it another task."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    @property
    def invariant(self) -> str:
        """What the variants share with their case, in one sentence."""

    def rewrite(self, text: str, expected: JsonValue, random: Random) -> Rewrite:
        """Reword a question, the last user message; raises Refused. The same `random` gives the same rewrite."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A case that a family left out."""

    case_id: str
    family: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """The variants of some cases, and the cases that had none."""

    variants: tuple[Case, ...]
    refusals: tuple[Refusal, ...]

    def reasons(self) -> dict[tuple[str, str], int]:
        """Count the refusals by (family, reason)."""
        return dict(sorted(Counter((refusal.family, refusal.reason) for refusal in self.refusals).items()))


def expand(cases: Iterable[Case], families: Sequence[Family], seed: int, num_variants: int = 1) -> Expansion:
    """Make up to `num_variants` variants of every case in every family; variants of variants are not made.

    A variant depends on the seed, the family, and its case alone, not on the other cases or their order. It has its
    case's metadata and in `change` what was done. Two variants of a case that come out alike are one.
    """
    variants: list[Case] = []
    refusals: list[Refusal] = []
    for case in cases:
        if case.family is not None:
            continue
        for family in families:
            made: dict[str, Case] = {}
            try:
                for number in range(num_variants):
                    variant = vary(case, family, seed, number)
                    made.setdefault(question_of(variant), variant)
            except Refused as refusal:
                refusals.append(Refusal(case_id=case.id, family=family.name, reason=str(refusal)))
            variants += made.values()
    return Expansion(variants=tuple(variants), refusals=tuple(refusals))


def vary(case: Case, family: Family, seed: int, number: int = 0) -> Case:
    """Make one variant of a case; raises Refused."""
    question = question_of(case)
    rewrite = family.rewrite(question, case.expected, Random(f"{seed}/{family.name}/{case.id}/{number}"))
    if rewrite.text == question:
        raise Refused("the rewriting changed nothing")
    return msgspec.structs.replace(
        case,
        id=f"{case.id}~{family.name}{f'.{number}' if number else ''}",
        input=with_question(case, rewrite.text),
        expected=rewrite.expected,
        metadata={**case.metadata, "change": rewrite.change},
        variant_of=case.id,
        family=family.name,
    )


def question_of(case: Case) -> str:
    """Return the text that a family rewrites: the input, or its last user message; raises Refused."""
    if isinstance(case.input, str):
        return case.input
    for message in reversed(case.input):
        if message.role == "user":
            return message.content
    raise Refused("there is no user message")


def with_question(case: Case, text: str) -> str | tuple[ChatMessage, ...]:
    """Return the case's input with another question."""
    if isinstance(case.input, str):
        return text
    place = max(index for index, message in enumerate(case.input) if message.role == "user")
    changed = msgspec.structs.replace(case.input[place], content=text)
    return (*case.input[:place], changed, *case.input[place + 1 :])
