"""Built-in: Python functions to complete."""

from evaluation.quality.builtin.code_cases import library_cases, tiny_cases
from evaluation.quality.builtin.examples import interleaved
from evaluation.quality.suite import DomainEvalSuite, Generation, ScorerSpec


def suite() -> DomainEvalSuite:
    return DomainEvalSuite(
        name="code",
        description=(
            "Functions of held-out modules of the standard library, right if the first line of the completion is; tiny "
            "functions, right as far as their asserts pass."
        ),
        cases=tuple(interleaved(library_cases(), tiny_cases())),
        scorers=(
            ScorerSpec(name="evaluation.quality.builtin.scorers:CompletionParses", label="parses"),
            ScorerSpec(name="evaluation.quality.builtin.scorers:CompletionRight", label="right"),
            ScorerSpec(name="rouge_l", options={"field": "body"}),
        ),
        generation=Generation(max_tokens=128),
    )
