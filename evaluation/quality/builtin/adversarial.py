"""The adversarial set: cases of the other suites, each beside its variants.

Contracts worded in the standard manner, notes, and functions of the library. Essays are left out: no answer to them is
settled.
"""

from __future__ import annotations

from evaluation.quality.builtin.code_cases import library_cases
from evaluation.quality.builtin.contract_cases import contract_cases
from evaluation.quality.builtin.examples import interleaved
from evaluation.quality.builtin.prose_cases import note_cases
from evaluation.quality.families import Expansion, expand, families_for
from evaluation.quality.suite import Case

SEED = 20_261_125
NUM_OF_EACH = 50


def chosen_cases() -> list[Case]:
    """Return the cases that variants are made of."""
    standard = [case for case in contract_cases() if case.metadata["manner"] == "standard"]
    return interleaved(*(cases[:NUM_OF_EACH] for cases in (standard, note_cases(), library_cases())))


def expansion(seed: int = SEED) -> Expansion:
    """Make the variants, and count the cases that a family refuses."""
    cases = chosen_cases()
    return expand(cases, families_for(cases), seed)


def adversarial_cases() -> list[Case]:
    """Return cases and variants."""
    return [*chosen_cases(), *expansion().variants]
