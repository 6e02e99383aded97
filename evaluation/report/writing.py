"""Writes reports: of a folder, with what a run of a suite or a throughput measurement left there, or of several."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.load.throughput_records import kept
from evaluation.quality.answers import AnswerFile, text_of
from evaluation.quality.results import Results, kept_results, read_folder
from evaluation.quality.suite import Case, DomainEvalSuite, JsonValue
from evaluation.report import conclusions, diagrams, quality_tables, throughput_tables
from evaluation.report.page import Page, Section, write_page


def write_report(folder: Path) -> tuple[Path, Path]:
    """Write report.md and report.html, and return them. Raises ExtraMissingError without jinja2 or matplotlib."""
    return write_page(folder, _page(folder))


def write_joint_report(folders: Sequence[Path], out: Path) -> tuple[Path, Path]:
    """The same for several folders on one page, by suite. Raises ValueError where one holds nothing."""
    pages = [_page(folder) for folder in folders]
    for folder, page in zip(folders, pages, strict=True):
        if not page.sections:
            raise ValueError(f"{folder} holds neither a run nor a measurement")
    out.mkdir(parents=True, exist_ok=True)
    return write_page(
        out,
        Page(
            title="Evaluation",
            description="\n".join(f"{page.subject}: {page.description}" for page in pages if page.description),
            short=[f"{page.subject}: {line}" for page in pages for line in page.short],
            sections=[
                replace(section, title=f"{page.subject}: {section.title}")
                for page in pages
                for section in page.sections
            ],
        ),
    )


def _page(folder: Path) -> Page:
    short: list[str] = []
    sections: list[Section] = []
    title, subject, description = "Throughput", "throughput", ""
    if results := kept_results(folder):
        _, suite, answers = read_folder(folder)
        title, subject, description = f"Evaluation: {suite.name}", suite.name, suite.description
        short += conclusions.of_quality(results)
        sections += _quality(results, suite, answers)
    if throughput := kept(folder):
        short += conclusions.of_throughput(throughput)
        sections += throughput_tables.sections(throughput)
    shown = [section for section in sections if section.table.rows]
    return Page(title=title, subject=subject, description=description, short=short, sections=shown)


def _quality(results: Results, suite: DomainEvalSuite, answers: AnswerFile) -> Iterator[Section]:
    yield Section("Quality", quality_tables.quality(results.summaries), diagrams.quality(results.summaries))
    yield Section("Against base", quality_tables.verdicts(results.against, results.margin))
    yield Section("Tokens against base", quality_tables.tokens(results.against))
    yield Section("Adversarial families", quality_tables.families(results.families))
    yield Section("Cases without a variant", quality_tables.left_out(results.plan.left_out))
    yield Section("By slice", quality_tables.by_slice(results.summaries))
    texts = _texts(suite, answers)
    for metric in results.metrics:
        ones = [one for summary in results.summaries if summary.metric == metric for one in summary.worst]
        yield Section(f"Worst cases: {metric}", quality_tables.worst(ones, texts))
    yield Section("Configuration of the quality run", quality_tables.configuration(results))


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
