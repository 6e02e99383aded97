"""The parts of a question: what is asked, what it is asked about, and the words that no rewriting may touch."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from evaluation.pocket.records import words
from evaluation.quality.suite import JsonValue

# What an instruction begins with; a paragraph that begins otherwise is material, unless it is a short question.
VERBS = frozenset(
    words(
        "answer carry classify compare complete compute continue correct count decide describe determine explain "
        "extract fill find finish fix give identify list mark name pick pull read return rewrite say select solve sort "
        "state sum summarise summarize tell transform translate turn use what which who when where why how write"
    )
)
MAX_INSTRUCTION_WORDS = 30
CODE = re.compile(
    r"^\s*(?:def \w+\(|async def |class \w+[:(]|from [\w.]+ import |import [\w.]+\s*$|@\w+(?:[.(]|$))"
    r"|```|^ {4,}\S|^[ \t]+return \S+\s*$",
    flags=re.MULTILINE,
)
SENTENCE_GAP = re.compile(r"(?<=[.!?]) +(?=[\"“'(A-Z0-9])")
# A full stop after one of these ends no sentence.
ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|No|Ltd|Inc|Co|Corp|vs|etc|e\.g|i\.e|[A-Z])\.$")


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question in two parts, one of which may be empty; `gap` is what stands between them."""

    instruction: str
    material: str
    is_instruction_first: bool = True
    gap: str = "\n\n"

    @property
    def text(self) -> str:
        """The parts as one text again."""
        parts = (self.instruction, self.material)
        return self.gap.join(part for part in (parts if self.is_instruction_first else parts[::-1]) if part)

    def but(self, **changes: str | bool) -> Question:
        """The same question with some of its parts changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def dissect(text: str) -> Question:
    """Tell the instruction from its material; the parts joined give the text again, outer blank space aside.

    An instruction is a short paragraph of one line at the beginning or the end, or the first sentence of a text of one
    paragraph, that begins with a verb of asking. A text without material is all instruction, one without an
    instruction all material.
    """
    text = text.strip("\n ")
    head, gap, rest = text.partition("\n\n")
    if gap and is_instruction(head):
        return Question(instruction=head, material=rest)
    rest, gap, tail = text.rpartition("\n\n")
    if gap and is_instruction(tail):
        return Question(instruction=tail, material=rest, is_instruction_first=False)
    if "\n" not in text:
        first, *others = sentences(text)
        if others and is_instruction(first):
            return Question(instruction=first, material=" ".join(others), gap=" ")
        if is_instruction(text):
            return Question(instruction=text, material="")
    return Question(instruction="", material=text)


def is_instruction(paragraph: str) -> bool:
    said = paragraph.split()
    if not said or "\n" in paragraph or len(said) > MAX_INSTRUCTION_WORDS or looks_like_code(paragraph):
        return False
    first = re.sub(r"\W", "", said[1] if said[0].lower() == "please" and len(said) > 1 else said[0])
    return first.lower() in VERBS and paragraph.rstrip().endswith((".", ":", "?", "!"))


def sentences(text: str) -> list[str]:
    """Cut a line after its sentences; the pieces joined with single spaces give the line again, spaces aside."""
    found: list[str] = []
    for piece in SENTENCE_GAP.split(text.strip()):
        if found and ABBREVIATION.search(found[-1]):
            found[-1] += f" {piece}"
        else:
            found.append(piece)
    return found


def looks_like_code(text: str) -> bool:
    """Say whether a text is or holds program code, which no family may reword."""
    return bool(CODE.search(text))


def looks_like_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def protected_words(text: str, expected: JsonValue) -> frozenset[str]:
    """Return the words, in lower case, that the expected answer takes from the text: no rewriting may touch them."""
    answer = expected if isinstance(expected, str) else json.dumps(expected, ensure_ascii=False)
    return frozenset(bare_words(text)) & frozenset(bare_words(answer))


def bare_words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"\w+", text)]
