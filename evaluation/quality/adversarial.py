"""Adds adversarial families to a suite, and finds what they show in its scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import msgspec

from evaluation.quality.families import expand, families_for
from evaluation.quality.families.measures import FamilyResult, family_results
from evaluation.quality.suite import Case, DomainEvalSuite

ALL = "all"


class FamilyFound(msgspec.Struct, frozen=True, kw_only=True):
    """One family under one variant and metric."""

    variant: str
    metric: str
    found: FamilyResult


def with_families(suite: DomainEvalSuite, names: str, seed: int) -> tuple[DomainEvalSuite, dict[str, int]]:
    """Add the variants of the families named, separated by commas, or of all.

    Returns the suite, and how many cases each family left out, by family and reason. Raises ValueError for an unknown
    name.
    """
    known = {family.name: family for family in families_for(suite.cases)}
    chosen = list(known) if names == ALL else [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in known:
            raise ValueError(f"--families: no family {name!r}; there are {', '.join(known)}, or all")
    expansion = expand(suite.cases, [known[name] for name in chosen], seed)
    reasons = {f"{family}: {reason}": count for (family, reason), count in expansion.reasons().items()}
    return msgspec.structs.replace(suite, cases=(*suite.cases, *expansion.variants)), reasons


def found_in(
    cases: Sequence[Case],
    values: dict[tuple[str, str], dict[str, float]],
    variants: Sequence[str],
    metrics: Sequence[str],
) -> Iterator[FamilyFound]:
    """Every family of the suite; `values` are scores by case, by (variant, metric)."""
    for metric, variant in product(metrics, variants):
        for found in family_results(cases, values.get((variant, metric), {})):
            yield FamilyFound(variant=variant, metric=metric, found=found)
