"""Built-in: the other suites' cases and their variants in all adversarial families."""

from evaluation.quality.builtin.adversarial import adversarial_cases
from evaluation.quality.suite import DomainEvalSuite, Generation, ScorerSpec


def suite() -> DomainEvalSuite:
    return DomainEvalSuite(
        name="adversarial",
        description=(
            "Contracts, notes and functions, each with a paraphrase, another format, a rare value, a second candidate."
        ),
        cases=tuple(adversarial_cases()),
        scorers=(
            ScorerSpec(name="evaluation.quality.builtin.scorers:AllRight", label="all_right"),
            ScorerSpec(name="evaluation.quality.builtin.scorers:Overlap", label="overlap"),
        ),
        generation=Generation(max_tokens=160),
    )
