"""Measures the topic-drift scorer's error rates: `python -m evaluation.quality.drift_errors`.

For each kind of text: fitted on some, then given sentences of others: whole ones, ones spliced from two topics (the
first half of one, the second half of another, cut by words), and, as a control, ones spliced within one topic: broken
grammar alone must not count as drift. docs/drift.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from evaluation.pocket.essays import SUBJECTS, paragraph
from evaluation.pocket.notes import notes
from evaluation.pocket.prose import passages
from evaluation.quality.drift import TopicDrift, fit_drift
from evaluation.quality.topic_space import sentences_of

Topics = dict[str, list[str]]

NUM_SENTENCES = 1500
SENTENCE_WORDS = range(8, 41)
MAX_DOCSTRING_CHARS = 4000


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """Shares among the judged sentences, and how many of all could be judged."""

    found: float
    false_alarms: float
    false_alarms_spliced: float
    judged_spliced: float
    judged_whole: float


def splice(first: str, second: str) -> str:
    """Join the first half of one sentence to the second half of another."""
    head, tail = first.split(), second.split()
    return " ".join([*head[: len(head) // 2], *tail[len(tail) // 2 :]])


def error_rates(judge: TopicDrift, topics: Topics, num_sentences: int, seed: int) -> ErrorRates:
    """Judge whole sentences, and as many spliced across and within topics; a topic is a name and its texts."""
    random = Random(f"splice/{seed}")
    sentences = {
        name: [s for text in texts for s in sentences_of(text) if len(s.split()) in SENTENCE_WORDS]
        for name, texts in topics.items()
    }
    names = sorted(name for name, found in sentences.items() if found)
    whole, across, within = [], [], []
    for _ in range(num_sentences):
        first, second = random.sample(names, 2)
        sentence = random.choice(sentences[first])
        whole.append(sentence)
        across.append(splice(sentence, random.choice(sentences[second])))
        within.append(splice(sentence, random.choice(sentences[first])))
    found, judged_spliced = judged(judge, across)
    false_alarms, judged_whole = judged(judge, whole)
    return ErrorRates(
        found=found,
        false_alarms=false_alarms,
        false_alarms_spliced=judged(judge, within)[0],
        judged_spliced=judged_spliced,
        judged_whole=judged_whole,
    )


def judged(judge: TopicDrift, sentences: Sequence[str]) -> tuple[float, float]:
    """Return which share of the judged sentences drifted, and which share of all was judged."""
    drifts = [judge.judge(sentence) for sentence in sentences]
    num_judged = sum(len(drift.judged) for drift in drifts)
    num_drifted = sum(drift.num_drifted for drift in drifts)
    return num_drifted / max(1, num_judged), num_judged / max(1, len(sentences))


def essays(seed: int) -> Topics:
    """Paragraphs of the pocket models' essay grammar, by subject."""
    random = Random(f"essays/{seed}")
    return {subject: [paragraph(subject, random) for _ in range(20)] for subject in SUBJECTS}


def documentation(seed: int) -> Topics:
    """Docstrings of the standard library by package: every other one to fit on (seed 0), the rest to judge."""
    found: Topics = {}
    for number, (name, text) in enumerate(passages(held_out=False)):
        if number % 2 == min(seed, 1) and len(text) < MAX_DOCSTRING_CHARS:
            found.setdefault(name.split(".")[0], []).append(text)
    return found


def notes_and_essays(seed: int) -> Topics:
    """Two topics: all notes, and all essays."""
    return {
        "notes": [example.prompt_messages[-1]["content"] for example in islice(notes(seed, held_out=True), 400)],
        "essays": [text for texts in essays(seed).values() for text in texts],
    }


KINDS: dict[str, Callable[[int], Topics]] = {
    "essays, two of 24 subjects": essays,
    "a work note and an essay": notes_and_essays,
    "documentation, two Python modules": documentation,
}


def main() -> None:
    print("| spliced from | found | false alarms: whole, spliced within a topic | judged: spliced, whole |")
    print("|---|---|---|---|")
    for kind, topics in KINDS.items():
        judge = fit_drift([text for texts in topics(0).values() for text in texts])
        rates = error_rates(judge, topics(1), NUM_SENTENCES, seed=2)
        shares = f"{rates.judged_spliced:.0%}, {rates.judged_whole:.0%}"
        alarms = f"{rates.false_alarms:.1%}, {rates.false_alarms_spliced:.1%}"
        print(f"| {kind} | {rates.found:.0%} | {alarms} | {shares} |")


if __name__ == "__main__":
    main()
