"""Format variation: the same content in another layout, other blank space, capitals and punctuation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from evaluation.quality.families.anatomy import (
    Question,
    dissect,
    looks_like_code,
    looks_like_json,
    protected_words,
    sentences,
)
from evaluation.quality.families.family import Refused, Rewrite
from evaluation.quality.families.layout import Fields, find_fields, layouts_for
from evaluation.quality.suite import JsonValue

MIN_SENTENCES_TO_LIST = 3


class Formatting:
    """Lays it out otherwise: fields as list, table, JSON or prose, sentences as a list, other space and punctuation."""

    name = "format"
    invariant = "Every field and sentence, their order, and the expected answer; labels may change their capitals."

    def rewrite(self, text: str, expected: JsonValue, random: Random) -> Rewrite:
        question = dissect(text)
        if question.instruction:
            asked, how_asked = restyled(question.instruction, random)
        else:
            asked, how_asked = "", ""
        material, how = relaid(question, expected, random)
        done = [change for change in (how, how_asked) if change]
        if not done:
            raise Refused("neither fields, sentences nor an instruction to lay out anew")
        if material and asked:
            question = question.but(gap=random.choice(("\n\n", "\n\n\n", "\n\n---\n\n")))
        return Rewrite(
            text=question.but(instruction=asked, material=material).text, expected=expected, change=", ".join(done)
        )


def restyled(instruction: str, random: Random) -> tuple[str, str]:
    """Write an instruction in capitals, without its stop, or as a heading."""
    bare = instruction.rstrip(".:")
    return random.choice(
        (
            (instruction.upper(), "instruction in capitals"),
            (bare, "instruction without its stop"),
            (f"{bare}:", "instruction with a colon"),
            (f"# {bare}", "instruction as a heading"),
            (bare[0].lower() + bare[1:], "instruction in small letters"),
        )
    )


def relaid(question: Question, expected: JsonValue, random: Random) -> tuple[str, str]:
    """Lay the material out anew and say how; code and JSON that holds no plain fields stay as they are."""
    material = question.material
    if not material or looks_like_code(material):
        return material, ""
    fields = find_fields(material)
    if fields is not None:
        fields, capitals = relabelled(fields, expected, random)
        name, text = random.choice(sorted(layouts_for(fields, material).items()))
        return text, f"fields as {name}{capitals}"
    if looks_like_json(material):
        return material, ""
    if len(sentences(material)) >= MIN_SENTENCES_TO_LIST and "\n" not in material:
        # JSON escapes quotation marks, so a quoted fact would no longer stand there as it is.
        names = [name for name in SENTENCE_LAYOUTS if name != "JSON" or not set('"\\') & set(material)]
        name = random.choice(names)
        return SENTENCE_LAYOUTS[name](sentences(material)), f"sentences as {name}"
    return respaced(material, random)


def relabelled(fields: Fields, expected: JsonValue, random: Random) -> tuple[Fields, str]:
    """Change the capitals of the labels, unless the expected answer takes words from them as they are."""
    words = " ".join(label for label, _ in fields.rows)
    if isinstance(expected, str) and protected_words(words, expected):
        return fields, ""
    name, change = random.choice(sorted(CAPITALS.items()))
    rows = tuple((change(label), value) for label, value in fields.rows)
    return (replace(fields, rows=rows), f", labels {name}") if rows != fields.rows else (fields, "")


CAPITALS: dict[str, Callable[[str], str]] = {
    "as they are": str,
    "in capitals": str.upper,
    "in small letters": str.lower,
    "in title case": str.title,
}


def listed(found: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in found)


def counted(found: Sequence[str]) -> str:
    return "\n".join(f"{number}. {sentence}" for number, sentence in enumerate(found, start=1))


def lines(found: Sequence[str]) -> str:
    return "\n".join(found)


def spaced_lines(found: Sequence[str]) -> str:
    return "\n\n".join(found)


def as_json(found: Sequence[str]) -> str:
    return json.dumps({"text": list(found)}, ensure_ascii=False, indent=1)


def quoted(found: Sequence[str]) -> str:
    return "\n".join(f"> {sentence}" for sentence in found)


SENTENCE_LAYOUTS: dict[str, Callable[[Sequence[str]], str]] = {
    "a list": listed,
    "a numbered list": counted,
    "lines": lines,
    "paragraphs": spaced_lines,
    "a quotation": quoted,
    "JSON": as_json,
}


def respaced(text: str, random: Random) -> tuple[str, str]:
    """Change blank space and the shape of apostrophes, nothing else."""
    name, made = random.choice(
        (
            ("double spaces", re.sub(r"(?<=\S) (?=\S)", "  ", text)),
            ("indented lines", re.sub(r"^(?=\S)", "  ", text, flags=re.MULTILINE)),
            ("blank space at line ends", re.sub(r"(?<=\S)$", "  ", text, flags=re.MULTILINE)),
            ("curly apostrophes", text.replace("'", "\u2019")),
            ("wide blank lines", re.sub(r"\n\n", "\n\n\n", text)),
        )
    )
    return (made, name) if made != text else (re.sub(r"(?<=\S) (?=\S)", "  ", text), "double spaces")
