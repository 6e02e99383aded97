"""Structured extraction: contracts that were held out of training, in each manner the pocket models know."""

from __future__ import annotations

import json

from evaluation.pocket.contracts import Variant
from evaluation.pocket.prompts import held_out_contracts
from evaluation.quality.builtin.examples import input_of, interleaved
from evaluation.quality.suite import Case

SEED = 20_261_125
NUM_BY_MANNER: dict[Variant, int] = {
    "standard": 120,
    "paraphrased": 40,
    "reformatted": 40,
    "rare": 40,
    "ambiguous": 40,
}


def contract_cases(seed: int = SEED) -> list[Case]:
    """Return contracts whose pair of parties was never trained on; the expected answer is a JSON object."""
    return interleaved(*(manner_cases(manner, count, seed) for manner, count in NUM_BY_MANNER.items()))


def manner_cases(manner: Variant, count: int, seed: int) -> list[Case]:
    """Return contracts of one manner."""
    return [
        Case(
            id=f"contract-{manner}-{number}",
            input=input_of(example),
            expected=json.loads(example.reference),
            metadata={"task": "extraction", "manner": manner},
        )
        for number, example in enumerate(held_out_contracts(manner, count, seed))
    ]
