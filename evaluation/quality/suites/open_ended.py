"""Built-in: summaries of notes, and essays to be carried on."""

from evaluation.quality.builtin.examples import interleaved
from evaluation.quality.builtin.prose_cases import essay_cases, note_cases
from evaluation.quality.suite import DomainEvalSuite, Generation, ScorerSpec


def suite() -> DomainEvalSuite:
    return DomainEvalSuite(
        name="open_ended",
        description="Work notes to sum up, and essays to carry on; none was trained on.",
        cases=tuple(interleaved(note_cases(), essay_cases())),
        scorers=(ScorerSpec(name="rouge_l"), ScorerSpec(name="topic_drift")),
        generation=Generation(max_tokens=192),
    )
