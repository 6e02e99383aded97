"""Writes the report of a folder: what a run of a suite left there, a throughput measurement, or both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from evaluation.load.throughput_records import kept
from evaluation.quality.answers import AnswerFile, text_of
from evaluation.quality.results import Results, kept_results, read_folder
from evaluation.quality.suite import Case, DomainEvalSuite, JsonValue
from evaluation.report import conclusions, diagrams, quality_tables, throughput_tables
from evaluation.report.page import Page, Section, write_page


def write_report(folder: Path) -> tuple[Path, Path]:
    """Write report.md and report.html, and return them. Raises ExtraMissingError without jinja2 or matplotlib."""
    short: list[str] = []
    sections: list[Section] = []
    title, description = "Throughput", ""
    if results := kept_results(folder):
        _, suite, answers = read_folder(folder)
        title, description = f"Evaluation: {suite.name}", suite.description
        short += conclusions.of_quality(results)
        sections += _quality(results, suite, answers)
    if throughput := kept(folder):
        short += conclusions.of_throughput(throughput)
        sections += throughput_tables.sections(throughput)
    shown = [section for section in sections if section.table.rows]
    return write_page(folder, Page(title=title, description=description, short=short, sections=shown))


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
