"""Built-in: contracts to JSON."""

from evaluation.quality.builtin.contract_cases import contract_cases
from evaluation.quality.suite import DomainEvalSuite, Generation, ScorerSpec


def suite() -> DomainEvalSuite:
    return DomainEvalSuite(
        name="extraction",
        description="Contracts to JSON, in the five manners that the pocket models know; none was trained on.",
        cases=tuple(contract_cases()),
        scorers=(
            ScorerSpec(name="json_fields"),
            ScorerSpec(name="evaluation.quality.builtin.scorers:AllFields", label="exact_match"),
        ),
        generation=Generation(max_tokens=160),
    )
