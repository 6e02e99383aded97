"""Labelled fields in a text, whatever their layout, and the same fields in another."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

MIN_FIELDS = 3
MAX_LABEL_WORDS = 4

LABEL = r"(?P<label>[^\W\d_][\w ()/'-]{0,40}?)"
LINE_FORMS = (
    re.compile(rf"[-*•] {LABEL} ?[:=\u2013-] (?P<value>\S.*)"),
    re.compile(rf"\d+[.)] {LABEL} ?[:=\u2013-] (?P<value>\S.*)"),
    re.compile(rf"\| *{LABEL} *\| *(?P<value>[^|]*[^|\s]) *\|"),
    re.compile(rf"{LABEL} ?[:=] (?P<value>\S.*)"),
)
TABLE_RULE = re.compile(r"\|(?: *:?-+:? *\|)+")


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Labels and values in their order; `title` is a line before them, empty where there is none."""

    rows: tuple[tuple[str, str], ...]
    title: str = ""


def find_fields(text: str) -> Fields | None:
    """Read a text that is nothing but labelled fields, with a title line or none; None where it is anything else."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return json_fields(text) or line_fields(lines) or headed_fields(lines)


def json_fields(text: str) -> Fields | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict) or not all(isinstance(value, str | int) for value in content.values()):
        return None
    return made([(str(label), str(value)) for label, value in content.items()], "")


def line_fields(lines: list[str]) -> Fields | None:
    """Read lines of one form."""
    if any(TABLE_RULE.fullmatch(line) for line in lines[:3]):
        rule = next(index for index, line in enumerate(lines) if TABLE_RULE.fullmatch(line))
        # The line over the rule names the columns.
        lines = [*lines[: max(0, rule - 1)], *lines[rule + 1 :]]
    for form in LINE_FORMS:
        matches = [form.fullmatch(line) for line in lines]
        has_title = bool(matches) and matches[0] is None
        rows = [(match["label"], match["value"]) for match in matches if match]
        if len(rows) == len(lines) - has_title:
            return made(rows, lines[0] if has_title else "")
    return None


def headed_fields(lines: list[str]) -> Fields | None:
    """Read labels in capitals on lines of their own, each with its value under it."""
    labels, values = lines[::2], lines[1::2]
    if len(labels) != len(values) or not all(label.isupper() and len(label) > 1 for label in labels):
        return None
    return made(list(zip(labels, values, strict=True)), "")


def made(rows: list[tuple[str, str]], title: str) -> Fields | None:
    is_plain = all(len(label.split()) <= MAX_LABEL_WORDS for label, _ in rows)
    if len(rows) < MIN_FIELDS or not is_plain or len({label.lower() for label, _ in rows}) < len(rows):
        return None
    return Fields(rows=tuple(rows), title=title)


def bullets(fields: Fields) -> str:
    return titled(fields, "\n".join(f"* {label}: {value}" for label, value in fields.rows))


def numbered(fields: Fields) -> str:
    return titled(fields, "\n".join(f"{n}) {label}: {value}" for n, (label, value) in enumerate(fields.rows, 1)))


def table(fields: Fields) -> str:
    rows = "\n".join(f"| {label} | {value} |" for label, value in fields.rows)
    return titled(fields, f"| Field | Content |\n|---|---|\n{rows}")


def as_json(fields: Fields) -> str:
    return titled(fields, json.dumps(dict(fields.rows), ensure_ascii=False, indent=2))


def equations(fields: Fields) -> str:
    return titled(fields, "\n".join(f"{label} = {value}" for label, value in fields.rows))


def headed(fields: Fields) -> str:
    return titled(fields, "\n\n".join(f"{label.upper()}\n{value}" for label, value in fields.rows))


def one_line(fields: Fields) -> str:
    return titled(fields, "; ".join(f"{label}: {value}" for label, value in fields.rows) + ".")


def prose(fields: Fields) -> str:
    return titled(fields, " ".join(f"{stated(label)} {value.rstrip('.')}." for label, value in fields.rows))


def stated(label: str) -> str:
    return f"The {label.lower()} {'are' if label.lower().endswith('s') else 'is'}"


def titled(fields: Fields, body: str) -> str:
    return f"{fields.title}\n\n{body}" if fields.title else body


LAYOUTS: dict[str, Callable[[Fields], str]] = {
    "bullets": bullets,
    "numbers": numbered,
    "table": table,
    "JSON": as_json,
    "equations": equations,
    "headings": headed,
    "one line": one_line,
    "prose": prose,
}


def layouts_for(fields: Fields, text: str) -> dict[str, str]:
    """Return every layout in which the fields keep their values and which differs from the text."""
    found = {name: lay_out(fields) for name, lay_out in LAYOUTS.items()}
    if any("|" in value for _, value in fields.rows):
        del found["table"]
    # JSON escapes these, so the value would no longer stand there as it is.
    if any(character in value for _, value in fields.rows for character in '"\\'):
        del found["JSON"]
    if any(";" in value for _, value in fields.rows):
        del found["one line"]
    return {name: made for name, made in found.items() if made.split() != text.split()}
