"""Code completion: functions of held-out modules of the standard library, and tiny functions with asserts.

`expected` is an object: `head`, what the code of the question is; `body`, one right completion; `asserts`, where there
are any. The library's functions are those of the Python that runs this, as the recipe's are.
"""

from __future__ import annotations

from random import Random

from evaluation.pocket.code_text import REQUESTS, known_functions
from evaluation.pocket.stdlib import Function
from evaluation.quality.builtin.tiny_functions import tiny_functions
from evaluation.quality.suite import Case

SEED = 20_261_125
NUM_LIBRARY = 200
NUM_TINY = 60
MAX_HEAD_CHARS = 700
# Longer ones would be cut by the suite's max_tokens, and a cut function rarely parses.
MAX_BODY_CHARS = 400


def library_cases(seed: int = SEED, count: int = NUM_LIBRARY) -> list[Case]:
    """Return functions of modules that were never trained on, no two with one head."""
    random = Random(f"library-cases/{seed}")
    fitting = {f.head: f for f in known_functions(held_out=True) if is_fitting(f)}
    chosen = random.sample(sorted(fitting.values(), key=lambda f: (f.module, f.name, f.head)), min(count, len(fitting)))
    return [
        Case(
            id=f"library-{number}",
            input=f"{random.choice(REQUESTS)}\n\n{function.head}",
            expected={"head": function.head, "body": function.body.rstrip("\n"), "asserts": []},
            metadata={"task": "code", "kind": "library", "module": function.module.split(".")[0]},
        )
        for number, function in enumerate(chosen)
    ]


def is_fitting(function: Function) -> bool:
    return len(function.head) <= MAX_HEAD_CHARS and len(function.body) <= MAX_BODY_CHARS


def tiny_cases(seed: int = SEED, count: int = NUM_TINY) -> list[Case]:
    """Return tiny functions with asserts."""
    random = Random(f"tiny-cases/{seed}")
    return [
        Case(
            id=f"tiny-{number}",
            input=f"{random.choice(REQUESTS)}\n\n{function.head}",
            expected={"head": function.head, "body": function.body, "asserts": list(function.asserts)},
            metadata={"task": "code", "kind": "tiny"},
        )
        for number, function in enumerate(tiny_functions(seed, count))
    ]
