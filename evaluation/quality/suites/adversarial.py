"""Built-in: the other suites' cases and their variants in all adversarial families."""

from evaluation.quality.builtin.adversarial import adversarial_cases
from evaluation.quality.suite import DomainEvalSuite, Generation, ScorerSpec


def suite() -> DomainEvalSuite:
    return DomainEvalSuite(
        name="adversarial",
        description="Contracts and notes with their paraphrases, other formats, rare values and second candidates.",
        cases=tuple(adversarial_cases()),
        scorers=(
            ScorerSpec(name="evaluation.quality.builtin.scorers:AllRight", label="all_right"),
            ScorerSpec(name="evaluation.quality.builtin.scorers:Overlap", label="overlap"),
        ),
        generation=Generation(max_tokens=192),
    )
