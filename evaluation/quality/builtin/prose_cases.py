"""Open-ended text: summaries of work notes, and essays to be carried on, both held out of training.

The summary of a note is what the models were trained on; an essay's continuation is the most open task they know.
"""

from __future__ import annotations

from random import Random

from evaluation.pocket.essays import essay
from evaluation.pocket.prompts import held_out
from evaluation.pocket.prose import CONTINUE_REQUESTS
from evaluation.pocket.records import is_held_out
from evaluation.quality.builtin.examples import input_of
from evaluation.quality.suite import Case

SEED = 20_261_125
NUM_NOTES = 200
NUM_ESSAYS = 200


def note_cases(seed: int = SEED, count: int = NUM_NOTES) -> list[Case]:
    """Return notes whose summary was never trained on; the expected answer is that summary."""
    return [
        Case(
            id=f"note-{number}",
            input=input_of(example),
            expected=example.reference,
            metadata={"task": "summary"},
        )
        for number, example in enumerate(held_out("summary", count, seed))
    ]


def essay_cases(seed: int = SEED, count: int = NUM_ESSAYS) -> list[Case]:
    """Return the beginnings of essays that were never trained on; the expected answer is one way to go on.

    Many ways are right, so overlap with it is low even for a good answer; drift is what is to be measured.
    """
    random = Random(f"essay-cases/{seed}")
    found: dict[str, Case] = {}
    while len(found) < count:
        topic, text = essay(random)
        cut = text.find(" ", len(text) // random.randint(3, 5))
        if not is_held_out(text) or text in found:
            continue
        found[text] = Case(
            id=f"essay-{len(found)}",
            input=f"{random.choice(CONTINUE_REQUESTS)}\n\n{text[:cut].strip()}",
            expected=text[cut:].strip(),
            metadata={"task": "continuation", "subjects": "two" if " and " in topic else "one"},
        )
    return list(found.values())
