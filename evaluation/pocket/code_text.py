"""Python completions cut from the standard library; whole modules are held out by name."""

from collections.abc import Iterator
from functools import cache
from random import Random

from evaluation.pocket.records import Example, ask
from evaluation.pocket.stdlib import Function, Module, functions, split_modules

REQUESTS = (
    "Complete this Python function.",
    "Write the body of this function.",
    "Finish the code below.",
    "Continue this Python code.",
)
CHAT_SHARE = 0.45
WINDOW_CHARS = 1400
PROMPT_CHARS = (200, 500)
MAX_BODY_CHARS = 1200


def completion(function: Function, random: Random) -> Example:
    """Ask for the body of a function in a chat turn."""
    request = f"{random.choice(REQUESTS)}\n\n{function.head[-900:]}"
    return ask("code", request, function.body[:MAX_BODY_CHARS].rstrip("\n"))


def continuation(module: Module, random: Random) -> Example:
    """Cut a window out of a file, starting at a line, as a raw completion."""
    lines = module.source.splitlines(keepends=True)
    text = "".join(lines[random.randrange(max(1, len(lines) - 15)) :][:60])[:WINDOW_CHARS]
    cut = text.find("\n", random.randint(*PROMPT_CHARS))
    cut = cut if cut > 0 else len(text) // 2
    return Example(task="code", raw_prompt=text[:cut], reference=text[cut:])


@cache
def long_modules(*, held_out: bool) -> tuple[Module, ...]:
    return tuple(module for module in split_modules(held_out=held_out) if len(module.source) > 600)


@cache
def known_functions(*, held_out: bool) -> tuple[Function, ...]:
    return tuple(function for module in long_modules(held_out=held_out) for function in functions(module))


def code(seed: int, *, held_out: bool) -> Iterator[Example]:
    """Yield completions forever, half of them chat turns and half raw windows of a file."""
    random = Random(f"code/{seed}/{held_out}")
    files = long_modules(held_out=held_out)
    sizes = [len(module.source) for module in files]
    known = known_functions(held_out=held_out)
    while True:
        if random.random() < CHAT_SHARE:
            yield completion(random.choice(known), random)
        else:
            yield continuation(random.choices(files, sizes)[0], random)
