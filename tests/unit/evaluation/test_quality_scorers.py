"""The built-in scorers: right, wrong and hostile answers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from evaluation.quality.scoring import Checked, Score, registered
from evaluation.quality.suite import Case

SCHEMA = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}


def score(name: str, expected: Any, answer: str, case_input: str = "x", **options: Any) -> Score:
    scorer = registered()[name](**options)
    case = Case(id="a", input=case_input, expected=expected)
    if isinstance(scorer, Checked):
        scorer.check(case)
    return scorer(case, answer)


@pytest.mark.parametrize(
    ("name", "expected", "answer", "options", "value"),
    [
        ("exact_match", "Paris", " Paris\n", {}, 1),
        ("exact_match", "Paris", "paris", {}, 0),
        ("exact_match", "Paris", "paris", {"ignore_case": True}, 1),
        ("exact_match", "Paris", " Paris", {"strip": False}, 0),
        ("regex", None, "in 1957 it", {"pattern": r"\d{4}"}, 1),
        ("regex", None, "in 1957 it", {"pattern": r"\d{4}", "mode": "full"}, 0),
        ("regex", r"^a.c$", "a\nc", {}, 1),
        ("numeric", 1200, "It costs 1,200.00 euros", {}, 1),
        ("numeric", 1200, "From 5 to 1,199", {}, 0),
        ("numeric", 1200, "From 5 to 1,199", {"absolute": 1}, 1),
        ("numeric", 5, "From 5 to 1,199", {"pick": "first"}, 1),
        ("numeric", 100, "101", {"relative": 0.02}, 1),
        ("numeric", -3.5, "x = -3.5.", {}, 1),
        ("numeric", 1e-3, "about 1e-3", {}, 1),
        ("numeric", 1, "none", {}, 0),
        ("rouge_l", "the cat sat on the mat", "the cat on mat", {}, 0.8),
        ("rouge_l", "Straße über", "straße", {}, 2 / 3),
        ("rouge_l", "a", "", {}, 0),
        ("json_valid", None, '{"a": [1]}', {}, 1),
        ("json_valid", None, '```json\n{"a": 1}\n```', {}, 0),
        ("json_valid", None, '```json\n{"a": 1}\n```', {"fenced": True}, 1),
        ("json_valid", None, "NaN", {}, 0),
        ("json_valid", None, '{"a": 1, "a": 2}', {}, 0),
        ("json_valid", None, "[" * 100_000, {}, 0),
        ("json_schema", None, '{"name": "x"}', {"schema": SCHEMA}, 1),
        ("json_schema", None, '{"name": 1}', {"schema": SCHEMA}, 0),
        ("json_schema", None, "name", {"schema": SCHEMA}, 0),
        ("json_fields", {"a": 1, "b": [1, "x"]}, '{"b": [1.0, "x "], "a": 1}', {}, 1),
        ("json_fields", {"a": True}, '{"a": 1}', {}, 0),
        ("json_fields", {"a": None}, '{"a": null}', {}, 1),
        ("json_fields", '{"a": 1, "b": 2}', '{"a": 1, "b": 3}', {"ignore": ["b"]}, 1),
        ("json_fields", {"a": 1}, "no JSON", {}, 0),
        ("json_fields", {"a": 1}, "[]", {}, 0),
        ("python_parses", None, "def f():\n    return 1\n", {}, 1),
        ("python_parses", None, "def f(:\n", {}, 0),
        ("python_parses", None, "Here:\n```python\nx = 1\n```\nDone.", {}, 1),
        ("python_parses", None, "x = '\x00'", {}, 0),
        ("python_parses", None, "", {}, 0),
        ("python_parses", None, "(" * 10_000, {}, 0),
    ],
)
def test_score(name: str, expected: Any, answer: str, options: dict[str, Any], value: float) -> None:
    assert score(name, expected, answer, **options).value == pytest.approx(value)


def test_fields_have_precision_and_recall() -> None:
    made = score("json_fields", {"a": 1, "b": 2, "c": {"d": 3}}, '{"a": 1, "b": 9, "e": 0, "f": 0}')
    assert made.details["precision"] == 1 / 4
    assert made.details["recall"] == 1 / 3
    assert made.details["wrong"] == "b, c.d"
    assert made.value == pytest.approx(2 * (1 / 4) * (1 / 3) / (1 / 4 + 1 / 3))


@pytest.mark.parametrize(
    ("name", "expected", "options"),
    [
        ("exact_match", 3, {}),
        ("numeric", "many", {}),
        ("numeric", True, {}),
        ("regex", "(", {}),
        ("json_fields", [1], {}),
        ("json_fields", {}, {}),
        ("python_asserts", [], {}),
        ("python_asserts", ["assert ("], {}),
        ("numeric", 1, {"absolute": -1}),
        ("numeric", 1, {"pick": "middle"}),
        ("json_schema", None, {"schema": {"type": "thing"}}),
        ("python_asserts", "assert 1", {"memory_mb": 1}),
    ],
)
def test_what_a_scorer_cannot_use_is_a_value_error(name: str, expected: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        score(name, expected, "x", **options)


CODE = "def double(x):\n    return 2 * x\n"


@pytest.mark.parametrize(
    ("expected", "answer", "value"),
    [
        ("assert double(2) == 4", CODE, 1),
        (["assert double(2) == 4", "assert double(2) == 5"], CODE, 0.5),
        ("assert double(2) == 4", f"```python\n{CODE}```", 1),
        ("assert double(2) == 4", "import os\nos._exit(0)", 0),
        ("assert double(2) == 4", "raise SystemExit(0)", 0),
        ("assert double(2) == 4", "def double(x:", 0),
    ],
)
def test_code_is_run_with_its_asserts(expected: Any, answer: str, value: float) -> None:
    assert score("python_asserts", expected, answer).value == value


def test_a_completion_stands_behind_its_prompt() -> None:
    options = {"prefix_input": True}
    made = score("python_asserts", "assert double(2) == 4", "    return 2 * x\n", "def double(x):\n", **options)
    assert made.value == 1
    assert score("python_parses", None, "    return 2 * x\n", "def double(x):\n", **options).value == 1


def test_code_that_never_ends_or_eats_memory_is_stopped(tmp_path: Path) -> None:
    begun_s = time.monotonic()
    made = score("python_asserts", "assert True", "import time\ntime.sleep(60)", wall_s=0.5)
    assert (made.value, made.details["error"]) == (0, "longer than 0.5 s")
    assert score("python_asserts", "assert True", "while True: pass", cpu_s=1).value == 0
    assert "MemoryError" in str(score("python_asserts", "assert True", "x = bytearray(1 << 30)").details["error"])
    assert time.monotonic() - begun_s < 30


def test_what_code_started_does_not_outlive_it(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(1); open({str(mark)!r}, 'w')"
    answer = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n"
    assert score("python_asserts", "assert True", answer).value == 1
    time.sleep(1.5)
    assert not mark.exists()
