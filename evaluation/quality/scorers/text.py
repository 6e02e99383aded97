"""Scorers of plain text: equality, patterns, numbers, and overlap with a reference."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Literal

from evaluation.quality.extras import load
from evaluation.quality.scoring import Score, register
from evaluation.quality.suite import Case

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[^\W_]+")


def expected_text(case: Case) -> str:
    """What is expected, as a text; raises ValueError."""
    if not isinstance(case.expected, str):
        raise ValueError(f"must be a text, not {type(case.expected).__name__}")
    return case.expected


@register("exact_match")
class ExactMatch:
    """1 if the answer is the expected text; white space around both is left out unless `strip: false`."""

    def __init__(self, strip: bool = True, ignore_case: bool = False) -> None:
        self.strip = strip
        self.ignore_case = ignore_case

    def check(self, case: Case) -> None:
        expected_text(case)

    def __call__(self, case: Case, answer: str) -> Score:
        return Score(float(self._plain(answer) == self._plain(expected_text(case))))

    def _plain(self, text: str) -> str:
        text = text.strip() if self.strip else text
        return text.casefold() if self.ignore_case else text


@register("regex")
class Regex:
    """1 if the pattern is found in the answer, or is all of it with `mode: full`.

    Without `pattern`, the case's expected text is the pattern.
    """

    def __init__(self, pattern: str | None = None, mode: Literal["search", "full"] = "search") -> None:
        if mode not in ("search", "full"):
            raise ValueError(f"`mode` is search or full, not {mode!r}")
        self.pattern = None if pattern is None else self._compiled(pattern)
        self.mode = mode

    def check(self, case: Case) -> None:
        if self.pattern is None:
            self._compiled(expected_text(case))

    def __call__(self, case: Case, answer: str) -> Score:
        pattern = self.pattern or self._compiled(expected_text(case))
        found = pattern.fullmatch(answer.strip()) if self.mode == "full" else pattern.search(answer)
        return Score(float(found is not None))

    @staticmethod
    def _compiled(pattern: str) -> re.Pattern[str]:
        try:
            return re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error


@register("numeric")
class Numeric:
    """1 if a number of the answer, the last one or the `first`, is within the tolerance of the expected one.

    `relative` is a share of the expected number's size; the larger of both tolerances counts. Thousands may be
    separated by commas.
    """

    def __init__(self, absolute: float = 0.0, relative: float = 1e-9, pick: Literal["first", "last"] = "last") -> None:
        if absolute < 0 or relative < 0:
            raise ValueError("a tolerance must be at least 0")
        if pick not in ("first", "last"):
            raise ValueError(f"`pick` is first or last, not {pick!r}")
        self.absolute = absolute
        self.relative = relative
        self.at = 0 if pick == "first" else -1

    def check(self, case: Case) -> None:
        self._expected(case)

    def __call__(self, case: Case, answer: str) -> Score:
        numbers = [found for found in NUMBER.findall(answer) if found]
        if not numbers:
            return Score(0.0, {"found": "no number"})
        value, expected = float(numbers[self.at].replace(",", "")), self._expected(case)
        is_close = abs(value - expected) <= max(self.absolute, self.relative * abs(expected))
        return Score(float(is_close), {"found": numbers[self.at]})

    @staticmethod
    def _expected(case: Case) -> float:
        value = case.expected
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError("must be a number")
        return float(value)


class _Words:
    """ROUGE's words in any script; on ASCII text equal to the reference's [a-z0-9]+."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@register("rouge_l")
class RougeL:
    """ROUGE-L's F-measure against the expected text (Lin 2004), computed by rouge-score."""

    def check(self, case: Case) -> None:
        expected_text(case)

    @cached_property
    def _rouge(self) -> Any:
        return load("rouge_score.rouge_scorer").RougeScorer(["rougeL"], tokenizer=_Words())

    def __call__(self, case: Case, answer: str) -> Score:
        score = self._rouge.score(expected_text(case), answer)["rougeL"]
        return Score(score.fmeasure, {"precision": score.precision, "recall": score.recall})
