"""Scorers of the built-in suites, named in them by import path."""

from __future__ import annotations

import msgspec

from evaluation.quality.scorers.code import PythonAsserts, parse_error
from evaluation.quality.scorers.structured import JsonFields
from evaluation.quality.scorers.text import ExactMatch, RougeL
from evaluation.quality.scoring import Checked, FieldScorer, Score, Scorer
from evaluation.quality.suite import Case


def head_and_body(case: Case) -> tuple[str, str, list[str]]:
    """Return head, body and asserts of a completion; raises ValueError."""
    expected = case.expected
    if not isinstance(expected, dict) or not {"head", "body"} <= expected.keys():
        raise ValueError("must be an object with `head` and `body`")
    asserts = expected.get("asserts") or []
    if not isinstance(asserts, list):
        raise ValueError("`asserts` must be a list")
    return str(expected["head"]), str(expected["body"]), [str(one) for one in asserts]


class CompletionParses:
    """1 if the head and the answer together are Python."""

    def check(self, case: Case) -> None:
        head_and_body(case)

    def __call__(self, case: Case, answer: str) -> Score:
        head, _, _ = head_and_body(case)
        error = parse_error(head + answer) or ("" if answer.strip() else "no code")
        return Score(0.0, {"error": error}) if error else Score(1.0)


class CompletionRight:
    """The share of asserts that pass; where a case has none, 1 if the first line of code is the reference's."""

    def __init__(self) -> None:
        self._asserts = PythonAsserts(prefix_input=True)

    def check(self, case: Case) -> None:
        head_and_body(case)

    def __call__(self, case: Case, answer: str) -> Score:
        head, body, asserts = head_and_body(case)
        if asserts:
            return self._asserts(msgspec.structs.replace(case, input=head, expected=list(asserts)), answer)
        return Score(float(first_line(answer) == first_line(body)))


def first_line(code: str) -> str:
    """Return the first line that is not blank, without its indentation."""
    return next((line.strip() for line in code.splitlines() if line.strip()), "")


class ByTask:
    """Judges each case by the scorer of its task: completions, other objects, texts."""

    def __init__(self, completion: Scorer, fields: Scorer, text: Scorer) -> None:
        self._completion, self._fields, self._text = completion, fields, text

    def check(self, case: Case) -> None:
        scorer = self._scorer(case)
        if isinstance(scorer, Checked):
            scorer.check(case)

    def __call__(self, case: Case, answer: str) -> Score:
        return self._scorer(case)(case, answer)

    def _scorer(self, case: Case) -> Scorer:
        if not isinstance(case.expected, dict):
            return self._text
        return self._completion if {"head", "body"} <= case.expected.keys() else self._fields


class AllFields:
    """1 if every field of an expected object is right, and no other is there."""

    def __init__(self) -> None:
        self._fields = JsonFields()

    def check(self, case: Case) -> None:
        self._fields.check(case)

    def __call__(self, case: Case, answer: str) -> Score:
        score = self._fields(case, answer)
        return Score(float(score.value == 1.0), {"wrong": score.details.get("wrong", "")})


class AllRight(ByTask):
    """1 if everything is right: a completion's asserts or first line, every field of an object, a text exactly."""

    def __init__(self) -> None:
        super().__init__(CompletionRight(), AllFields(), ExactMatch())


class Overlap(ByTask):
    """How much is right: ROUGE-L against a completion's body or a text, F1 over the fields of an object."""

    def __init__(self) -> None:
        super().__init__(FieldScorer(RougeL(), "body"), JsonFields(), RougeL())
