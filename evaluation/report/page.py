"""One page in two forms: Markdown, and an HTML file that needs nothing beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.quality.extras import load

_MARKUP = re.compile(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)|^[#+-](?= )")
MARKDOWN, HTML = "report.md", "report.html"
MARKS = ("same", "better", "worse")
"""Cells that are coloured."""


@dataclass(frozen=True, slots=True)
class Table:
    """A title row and rows of cells; `note` stands below."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a page; the diagram, an SVG text, is in the HTML file only."""

    title: str
    table: Table
    diagram: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page; `short` are the sentences at its head, `subject` what its parts are called beside those of others."""

    title: str
    subject: str = ""
    description: str = ""
    short: Sequence[str] = ()
    sections: Sequence[Section] = ()


def write_page(folder: Path, page: Page) -> tuple[Path, Path]:
    """Write a page in both forms and return the files, Markdown first. Raises ExtraMissingError without jinja2."""
    for name in (MARKDOWN, HTML):
        (folder / name).write_text(rendered(name, page), encoding="utf-8")
    return folder / MARKDOWN, folder / HTML


def rendered(name: str, page: Page) -> str:
    """The page as MARKDOWN or HTML."""
    jinja2 = load("jinja2")
    environment: Any = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        # What a model wrote must not become markup.
        autoescape=name == HTML,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = plain_markdown
    return str(environment.get_template(f"{name}.j2").render(page=page, marks=MARKS))


def plain_markdown(text: str) -> str:
    """A text that is no markup, and stays on its line or in its cell."""
    return " ↵ ".join(_MARKUP.sub(r"\\\g<0>", line) for line in text.splitlines())
