"""Writes a run's report from its results and its kept answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.quality.answers import AnswerFile, text_of
from evaluation.quality.extras import load
from evaluation.quality.report import diagrams, tables
from evaluation.quality.report.conclusions import conclusions
from evaluation.quality.report.tables import Table
from evaluation.quality.results import Results, read_folder
from evaluation.quality.suite import Case, DomainEvalSuite, JsonValue

_MARKUP = re.compile(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)|^[#+-](?= )")
MARKDOWN, HTML = "report.md", "report.html"
MARKS = ("same", "better", "worse")
"""Cells that are coloured."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report; the diagram, an SVG text, is in the HTML file only."""

    title: str
    table: Table
    diagram: str = ""


def write_report(folder: Path, results: Results) -> tuple[Path, Path]:
    """Write both files and return their paths, Markdown first. Raises ExtraMissingError without jinja2."""
    _, suite, answers = read_folder(folder)
    sections = [section for section in _sections(results, suite, answers) if section.table.rows]
    return write_page(folder, f"Evaluation: {suite.name}", suite.description, list(conclusions(results)), sections)


def write_page(
    folder: Path, title: str, description: str, short: Sequence[str], sections: Sequence[Section]
) -> tuple[Path, Path]:
    """Write one page in both forms; `short` are the sentences at its head."""
    for name in (MARKDOWN, HTML):
        (folder / name).write_text(_rendered(name, title, description, short, sections), encoding="utf-8")
    return folder / MARKDOWN, folder / HTML


def markdown_of(title: str, description: str, short: Sequence[str], sections: Sequence[Section]) -> str:
    """The page as Markdown."""
    return _rendered(MARKDOWN, title, description, short, sections)


def _rendered(name: str, title: str, description: str, short: Sequence[str], sections: Sequence[Section]) -> str:
    shown = {"title": title, "description": description, "short": short, "sections": sections, "marks": MARKS}
    return str(_template(name).render(**shown))


def _template(name: str) -> Any:
    jinja2 = load("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        # What a model wrote must not become markup.
        autoescape=name == HTML,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = plain_markdown
    return environment.get_template(f"{name}.j2")


def _sections(results: Results, suite: DomainEvalSuite, answers: AnswerFile) -> Iterator[Section]:
    yield Section("Quality", tables.quality(results.summaries), diagrams.quality(results.summaries))
    yield Section("Against base", tables.verdicts(results.against, results.margin))
    yield Section("Tokens against base", tables.tokens(results.against))
    yield Section("By slice", tables.by_slice(results.summaries))
    texts = _texts(suite, answers)
    for metric in results.metrics:
        ones = [one for summary in results.summaries if summary.metric == metric for one in summary.worst]
        yield Section(f"Worst cases: {metric}", tables.worst(ones, texts))
    yield Section("Configuration", tables.configuration(results))


def _texts(suite: DomainEvalSuite, answers: AnswerFile) -> dict[tuple[str, str], tuple[str, str, str]]:
    cases = {case.id: case for case in suite.cases}
    return {
        key: (
            _asked(cases[answer.case]),
            _plain(cases[answer.case].expected),
            f"(refused: {answer.refused})" if answer.refused else text_of(answer.body),
        )
        for key, answer in answers.answers.items()
    }


def _asked(case: Case) -> str:
    return case.input if isinstance(case.input, str) else "\n".join(message.content for message in case.input)


def _plain(value: JsonValue) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plain_markdown(text: str) -> str:
    """A text that is no markup, and stays on its line or in its cell."""
    return " ↵ ".join(_MARKUP.sub(r"\\\g<0>", line) for line in text.splitlines())
