"""Mixes the generators into one stream of documents for training."""

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random

from evaluation.pocket.code_text import code
from evaluation.pocket.contracts import contracts
from evaluation.pocket.notes import notes
from evaluation.pocket.prose import prose
from evaluation.pocket.records import Example, Task

Generator = Callable[..., Iterator[Example]]

GENERATORS: dict[Task, Generator] = {"structured": contracts, "code": code, "prose": prose, "summary": notes}
MIX: dict[Task, float] = {"structured": 0.40, "code": 0.28, "prose": 0.24, "summary": 0.08}


def training_examples(seed: int) -> Iterator[Example]:
    """Yield training documents of all tasks forever, in the shares of `MIX`."""
    random = Random(f"mix/{seed}")
    streams = {task: generate(seed, held_out=False) for task, generate in GENERATORS.items()}
    while True:
        task = random.choices(tuple(MIX), tuple(MIX.values()))[0]
        yield next(streams[task])


def tokenizer_texts(seed: int, count: int) -> Iterator[str]:
    """Yield plain texts, without special tokens, for training the vocabulary; role names become single tokens."""
    yield "user\nmodel\nsystem\n" * 500
    for example in islice(training_examples(seed), count):
        yield from (message["content"] for message in example.prompt_messages)
        yield example.raw_prompt + example.reference
