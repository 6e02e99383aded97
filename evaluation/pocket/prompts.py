"""Held-out prompts for tests and benches: nothing here has been seen in training."""

from itertools import islice

from evaluation.pocket.contracts import Variant, contracts
from evaluation.pocket.corpus import GENERATORS
from evaluation.pocket.records import Example, Task


def held_out(task: Task, count: int, seed: int) -> list[Example]:
    """Return `count` held-out chat examples of a task, no two with one answer, the same for the same seed."""
    return _take(task, count, seed, is_raw=False)


def held_out_raw(task: Task, count: int, seed: int) -> list[Example]:
    """Return held-out examples without turns, whose prompt is plain text; only code and prose have them."""
    if task not in ("code", "prose"):
        raise ValueError(f"task {task!r} has no raw prompts: use 'code' or 'prose'")
    return _take(task, count, seed, is_raw=True)


def held_out_contracts(variant: Variant, count: int, seed: int) -> list[Example]:
    """Return held-out contracts all worded in one manner."""
    return list(islice(contracts(seed, held_out=True, variant=variant), count))


def _take(task: Task, count: int, seed: int, *, is_raw: bool) -> list[Example]:
    if task not in GENERATORS:
        raise ValueError(f"unknown task {task!r}: use one of {', '.join(GENERATORS)}")
    found: dict[str, Example] = {}
    for example in GENERATORS[task](seed, held_out=True):
        if len(found) >= count:
            break
        if bool(example.raw_prompt) == is_raw:
            found.setdefault(example.reference, example)
    return list(found.values())
