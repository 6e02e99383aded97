"""Scorers of JSON: validity, a schema, and the share of fields that are right."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from evaluation.quality.extras import load
from evaluation.quality.scoring import Score, register
from evaluation.quality.suite import Case, JsonValue

_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)
MAX_ANSWER_CHARS = 1 << 20


def read_json(answer: str, fenced: bool) -> JsonValue:
    """The answer as JSON, out of a Markdown fence if `fenced`; NaN and doubled keys are refused. Raises ValueError."""
    if len(answer) > MAX_ANSWER_CHARS:
        raise ValueError(f"longer than {MAX_ANSWER_CHARS} characters")
    match = _FENCE.match(answer) if fenced else None
    try:
        value: JsonValue = json.loads(
            match[1] if match else answer, parse_constant=_no_constant, object_pairs_hook=_unique_keys
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return made


@register("json_valid")
class JsonValid:
    """1 if the whole answer is JSON. With `fenced: true` a Markdown fence around it is allowed."""

    def __init__(self, fenced: bool = False) -> None:
        self.fenced = fenced

    def __call__(self, case: Case, answer: str) -> Score:
        try:
            read_json(answer, self.fenced)
        except ValueError as error:
            return Score(0.0, {"error": str(error)[:200]})
        return Score(1.0)


@register("json_schema")
class JsonSchema:
    """1 if the answer is JSON that fits `schema` (the draft that it names, else 2020-12)."""

    def __init__(self, schema: dict[str, Any], fenced: bool = False) -> None:
        kind = load("jsonschema").validators.validator_for(schema, default=load("jsonschema").Draft202012Validator)
        try:
            kind.check_schema(schema)
        except load("jsonschema").SchemaError as error:
            raise ValueError(f"`schema` is not a JSON schema: {error.message}") from error
        self.validator = kind(schema)
        self.fenced = fenced

    def __call__(self, case: Case, answer: str) -> Score:
        try:
            value = read_json(answer, self.fenced)
        except ValueError as error:
            return Score(0.0, {"error": str(error)[:200]})
        errors = sorted(self.validator.iter_errors(value), key=lambda error: error.json_path)
        return Score(0.0, {"error": f"{errors[0].json_path}: {errors[0].message}"[:200]}) if errors else Score(1.0)


@register("json_fields")
class JsonFields:
    """F1 over the fields of an expected JSON object, with precision and recall.

    A field is a path to a leaf, `parties[0]` or `price.amount`, and is right if path and value are equal. Texts are
    compared without white space around them; numbers by value. `ignore` names top-level fields that are left out.
    """

    def __init__(self, fenced: bool = False, ignore: tuple[str, ...] | list[str] = ()) -> None:
        self.fenced = fenced
        self.ignore = frozenset(ignore)

    def check(self, case: Case) -> None:
        self._expected(case)

    def __call__(self, case: Case, answer: str) -> Score:
        expected = self._expected(case)
        try:
            given = leaves(read_json(answer, self.fenced), self.ignore)
        except ValueError as error:
            return Score(0.0, {"precision": 0.0, "recall": 0.0, "error": str(error)[:200]})
        num_right = sum(path in given and is_same(given[path], value) for path, value in expected.items())
        precision = num_right / len(given) if given else 0.0
        recall = num_right / len(expected)
        f1 = 2 * precision * recall / (precision + recall) if num_right else 0.0
        wrong = sorted(path for path, value in expected.items() if path not in given or not is_same(given[path], value))
        return Score(f1, {"precision": precision, "recall": recall, "wrong": ", ".join(wrong)[:200]})

    def _expected(self, case: Case) -> dict[str, JsonValue]:
        value = case.expected
        if isinstance(value, str):
            value = read_json(value, fenced=False)
        if not isinstance(value, dict):
            raise ValueError("must be a JSON object, or the text of one")
        if not (fields := leaves(value, self.ignore)):
            raise ValueError("has no field to compare")
        return fields


def leaves(value: JsonValue, ignore: frozenset[str] = frozenset()) -> dict[str, JsonValue]:
    """Every leaf by its path; an empty list or object is a leaf, too."""
    if isinstance(value, dict) and ignore:
        value = {name: inner for name, inner in value.items() if name not in ignore}
    found: dict[str, JsonValue] = {}
    stack: list[tuple[str, JsonValue]] = [("", value)]
    while stack:
        path, inner = stack.pop()
        if isinstance(inner, dict) and inner:
            stack.extend((f"{path}.{name}" if path else name, child) for name, child in inner.items())
        elif isinstance(inner, list) and inner:
            stack.extend((f"{path}[{i}]", child) for i, child in enumerate(inner))
        elif path:
            found[path] = inner
    return found


def is_same(given: JsonValue, expected: JsonValue) -> bool:
    """Equal leaves: true is not 1, and 2.0 is 2."""
    if isinstance(given, bool) or isinstance(expected, bool):
        return given is expected
    if isinstance(given, str) and isinstance(expected, str):
        return given.strip() == expected.strip()
    if isinstance(given, int | float) and isinstance(expected, int | float):
        return math.isclose(given, expected, rel_tol=1e-12)
    return type(given) is type(expected) and given == expected
