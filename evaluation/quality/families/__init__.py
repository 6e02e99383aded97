"""Adversarial families: variants of a suite's cases, made by rule and seed, that a good model answers as it should."""

from collections.abc import Sequence

from evaluation.quality.families.ambiguity import Ambiguity, candidates_of
from evaluation.quality.families.edge_cases import EdgeCases
from evaluation.quality.families.family import Expansion, Family, Refused, Rewrite, expand
from evaluation.quality.families.formatting import Formatting
from evaluation.quality.families.paraphrase import Paraphrase
from evaluation.quality.suite import Case


def families_for(cases: Sequence[Case]) -> tuple[Family, ...]:
    """All four families; second candidates are drawn from the cases' own expected answers."""
    return Paraphrase(), Formatting(), EdgeCases(), Ambiguity(candidates_of(cases))


__all__ = [
    "Ambiguity",
    "EdgeCases",
    "Expansion",
    "Family",
    "Formatting",
    "Paraphrase",
    "Refused",
    "Rewrite",
    "expand",
    "families_for",
]
