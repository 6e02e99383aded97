"""What the families show: how often variants pass, and whether a case and its variants share their fate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evaluation.quality.families.paraphrase import Paraphrase
from evaluation.quality.scoring import PASS_MARK
from evaluation.quality.suite import Case


@dataclass(frozen=True, kw_only=True)
class FamilyResult:
    """One family's variants under one metric; pairs are a variant and its case, where both have a score.

    `lost` are the variants that fail while their case passes, `won` those that pass while it fails.
    """

    family: str
    num_variants: int
    num_passed: int
    num_pairs: int
    num_cases_passed: int
    lost: tuple[str, ...]
    won: tuple[str, ...]

    @property
    def pass_rate(self) -> float:
        return self.num_passed / self.num_variants if self.num_variants else 0.0

    @property
    def consistency(self) -> float:
        """Pairs of which both pass or both fail, among all pairs."""
        return 1 - (len(self.lost) + len(self.won)) / self.num_pairs if self.num_pairs else 0.0

    @property
    def loss_rate(self) -> float:
        """Pairs whose variant fails, among those whose case passes."""
        return len(self.lost) / self.num_cases_passed if self.num_cases_passed else 0.0

    @property
    def is_memorisation(self) -> bool:
        """Say whether `lost` are cases that pass in their own words only."""
        return self.family == Paraphrase.name and bool(self.lost)


def family_results(
    cases: Iterable[Case], values: Mapping[str, float], *, pass_mark: float = PASS_MARK
) -> tuple[FamilyResult, ...]:
    """Compare variants with their cases, by family in alphabetical order; a case without a score is left out.

    `values` are the scores of one metric by case id; at `pass_mark` or above an answer passes.
    """
    by_family: dict[str, list[Case]] = {}
    for case in cases:
        if case.family is not None and case.id in values:
            by_family.setdefault(case.family, []).append(case)
    passed = {id for id, value in values.items() if value >= pass_mark}
    return tuple(_result(family, variants, values, passed) for family, variants in sorted(by_family.items()))


def _result(family: str, variants: list[Case], values: Mapping[str, float], passed: set[str]) -> FamilyResult:
    pairs = [(variant.id, variant.variant_of) for variant in variants if variant.variant_of in values]
    return FamilyResult(
        family=family,
        num_variants=len(variants),
        num_passed=sum(variant.id in passed for variant in variants),
        num_pairs=len(pairs),
        num_cases_passed=sum(case in passed for _, case in pairs),
        lost=tuple(variant for variant, case in pairs if case in passed and variant not in passed),
        won=tuple(variant for variant, case in pairs if case not in passed and variant in passed),
    )
