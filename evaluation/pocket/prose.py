"""English prose: documentation found in the standard library, and short essays built from a grammar."""

from collections.abc import Iterator
from functools import cache
from random import Random

from evaluation.pocket.essays import essay
from evaluation.pocket.records import Example, ask, is_held_out
from evaluation.pocket.stdlib import docstrings, split_modules, topics

CONTINUE_REQUESTS = ("Continue this text.", "Carry on from here.", "Continue:", "Write the next lines of this text.")
EXPLAIN_REQUESTS = ("Explain {name}.", "What is {name}?", "Describe {name} from the Python library.")
WRITE_REQUESTS = ("Write about {topic}.", "Write a short text about {topic}.", "Tell me about {topic}.")
ESSAY_SHARE = 0.45
PASSAGE_CHARS = (300, 1300)


@cache
def passages(*, held_out: bool) -> tuple[tuple[str, str], ...]:
    """Collect (name, text) of everything documented; the reference topics are held out by hash."""
    found = [pair for module in split_modules(held_out=held_out) for pair in docstrings(module) if len(pair[1]) > 120]
    found += [pair for pair in topics() if is_held_out(f"topic/{pair[0]}") == held_out]
    return tuple(found)


def excerpt(text: str, random: Random) -> str:
    """Cut an excerpt that starts with a paragraph."""
    starts = [0, *(index + 2 for index in range(len(text)) if text.startswith("\n\n", index))]
    start = random.choice([index for index in starts if len(text) - index > 150] or [0])
    return text[start : start + random.randint(*PASSAGE_CHARS)].strip("\n")


def from_documentation(name: str, text: str, random: Random) -> Example:
    """Turn a passage into a raw text, a continuation turn or an explanation turn."""
    form = random.random()
    if form < 0.25:
        chosen = random.choice(EXPLAIN_REQUESTS).format(name=name)
        return ask("prose", chosen, text[: PASSAGE_CHARS[1]].strip())
    piece = excerpt(text, random)
    cut = piece.find(" ", len(piece) // random.randint(2, 4))
    cut = cut if cut > 0 else len(piece) // 2
    if form < 0.6:
        return ask("prose", f"{random.choice(CONTINUE_REQUESTS)}\n\n{piece[:cut].strip()}", piece[cut:].strip())
    return Example(task="prose", raw_prompt=piece[:cut], reference=piece[cut:])


def from_grammar(topic: str, text: str, random: Random) -> Example:
    """Turn an essay into a writing turn, a continuation turn or a raw text."""
    form = random.random()
    if form < 0.5:
        return ask("prose", random.choice(WRITE_REQUESTS).format(topic=topic), text)
    cut = text.find(" ", len(text) // random.randint(3, 6))
    if form < 0.8:
        return ask("prose", f"{random.choice(CONTINUE_REQUESTS)}\n\n{text[:cut].strip()}", text[cut:].strip())
    return Example(task="prose", raw_prompt=text[:cut], reference=text[cut:])


def prose(seed: int, *, held_out: bool) -> Iterator[Example]:
    """Yield prose forever; essays are held out by hash, docstrings by module, reference topics by name."""
    random = Random(f"prose/{seed}/{held_out}")
    known = passages(held_out=held_out)
    sizes = [min(len(text), 6000) for _, text in known]
    while True:
        if random.random() < ESSAY_SHARE:
            topic, text = essay(random)
            if is_held_out(text) == held_out:
                yield from_grammar(topic, text, random)
        else:
            yield from_documentation(*random.choices(known, sizes)[0], random)
