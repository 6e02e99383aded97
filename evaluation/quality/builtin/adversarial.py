"""The adversarial set: cases of the other suites, each beside its variants.

Contracts worded in the standard manner and notes, as their answers are settled. Code and essays would take part with
paraphrases and formats of one line alone.
"""

from __future__ import annotations

from evaluation.quality.builtin.contract_cases import contract_cases
from evaluation.quality.builtin.prose_cases import note_cases
from evaluation.quality.families import Expansion, expand, families_for
from evaluation.quality.suite import Case

SEED = 20_261_125
NUM_OF_EACH = 60


def chosen_cases() -> list[Case]:
    """Return the cases that variants are made of."""
    standard = [case for case in contract_cases() if case.metadata["manner"] == "standard"]
    return [*standard[:NUM_OF_EACH], *note_cases(count=NUM_OF_EACH)]


def expansion(seed: int = SEED) -> Expansion:
    """Make the variants, and count the cases that a family refuses."""
    cases = chosen_cases()
    return expand(cases, families_for(cases), seed)


def adversarial_cases() -> list[Case]:
    """Return cases and variants."""
    return [*chosen_cases(), *expansion().variants]
