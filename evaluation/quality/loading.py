"""Reads suites from YAML and Python files; every error names file, line or case, and field."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from evaluation.quality.scoring import importing_from, scorer_problems
from evaluation.quality.suite import Case, DomainEvalSuite, Problem, SuiteError, problems

SUITES = Path(__file__).parent / "suites"
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+)\]")


class _Loader(yaml.SafeLoader):
    """YAML without dates: `2026-11-25` in an expected answer is the text that the model writes."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def built_in_names() -> list[str]:
    """Suites that can be asked for by name."""
    return sorted(file.stem for file in SUITES.glob("[a-z]*") if file.suffix in (".yaml", ".py"))


def load_suite(path_or_name: str | Path) -> DomainEvalSuite:
    """Read and check a suite: a built-in name, a YAML file, or a Python file with `SUITE` or a function `suite()`.

    Raises SuiteError.
    """
    file = _find(path_or_name)
    if file.suffix == ".py":
        suite, place = _from_python(file), Place(file)
    else:
        suite, place = _from_yaml(file)
    for found in (problems, scorer_problems):
        for problem in found(suite):
            raise SuiteError(place.describe(problem, suite.cases))
    return suite


def _find(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.suffix in (".yaml", ".yml", ".py"):
        if not path.is_file():
            raise SuiteError(f"{path}: there is no such file")
        return path
    for suffix in (".yaml", ".py"):
        if (file := SUITES / f"{path_or_name}{suffix}").is_file() and file.parent == SUITES:
            return file
    known = ", ".join(built_in_names()) or "none"
    raise SuiteError(f"{path_or_name}: neither a .yaml or .py file nor a built-in suite (there are: {known})")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the parts of a suite stand: the file, and its YAML nodes."""

    file: Path
    root: yaml.Node | None = None

    def describe(self, problem: Problem, cases: tuple[Case, ...] | list[Any] = ()) -> str:
        """`file:line: cases[3] (its id).field: what is wrong`."""
        line = self._line(problem.path)
        path = problem.path.removeprefix("$").removeprefix(".")
        if (match := re.match(r"cases\[(\d+)\]", path)) and int(match[1]) < len(cases):
            case = cases[int(match[1])]
            id = case.id if isinstance(case, Case) else case.get("id") if isinstance(case, dict) else None
            path = f"{match[0]} ({id}){path[match.end() :]}" if id else path
        at = f"{self.file}:{line}" if line else f"{self.file}"
        return f"{at}: {path}: {problem.message}" if path else f"{at}: {problem.message}"

    def _line(self, path: str) -> int | None:
        node = self.root
        if node is None:
            return None
        line = node.start_mark.line
        for name, index in _STEP.findall(path):
            found = _child(node, name, index)
            if found is None:
                break
            line, node = found
        return line + 1


def _child(node: yaml.Node, name: str, index: str) -> tuple[int, yaml.Node] | None:
    """The line of a field's name or of an element, and its node."""
    if name and isinstance(node, yaml.MappingNode):
        return next(((key.start_mark.line, value) for key, value in node.value if key.value == name), None)
    if index and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
        element: yaml.Node = node.value[int(index)]
        return element.start_mark.line, element
    return None


def _from_yaml(file: Path) -> tuple[DomainEvalSuite, Place]:
    try:
        text = file.read_text(encoding="utf-8")
        place = Place(file, yaml.compose(text, _Loader))
        content = yaml.load(text, _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{file}: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SuiteError(f"{file}:{line}: not YAML: {error.problem or error.context}") from error
    if not isinstance(content, dict):
        raise SuiteError(f"{file}:1: a suite is a mapping with `name`, `cases` and `scorers`")
    folder = str(file.resolve().parent)
    try:
        content = _normalised(content, folder)
    except SourceError as error:
        raise SuiteError(place.describe(Problem("$.cases", str(error)))) from error
    return _converted(content, place), place


def _from_python(file: Path) -> DomainEvalSuite:
    """Run the file; validate what it built, as construction does not."""
    folder = str(file.resolve().parent)
    spec = importlib.util.spec_from_file_location(f"outrider_suite_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with importing_from(folder):
            spec.loader.exec_module(module)
            made = module.suite() if callable(getattr(module, "suite", None)) else getattr(module, "SUITE", None)
    except Exception as error:  # whatever the user's own code raises
        raise SuiteError(f"{file}: {type(error).__name__}: {error}") from error
    if not isinstance(made, DomainEvalSuite):
        raise SuiteError(f"{file}: needs `SUITE`, or a function `suite()` that returns a DomainEvalSuite")
    fields = msgspec.to_builtins(made)
    return _converted({**fields, "folder": made.folder or folder}, Place(file))


def _converted(content: dict[str, Any], place: Place) -> DomainEvalSuite:
    try:
        return msgspec.convert(content, DomainEvalSuite)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at ")
        cases = content.get("cases")
        problem = Problem(path.strip("`") or "$", message)
        raise SuiteError(place.describe(problem, cases if isinstance(cases, list | tuple) else [])) from error


class SourceError(ValueError):
    """Cases could not be had from where the suite says."""


def _normalised(content: dict[str, Any], folder: str) -> dict[str, Any]:
    """The written forms that are short for something."""
    made = {**content, "folder": folder}
    if isinstance(made.get("cases"), dict):
        made["cases"] = list(_sourced(made["cases"], folder))
    if isinstance(made.get("cases"), list):
        made["cases"] = [_with_text_metadata(case) for case in made["cases"]]
    if isinstance(made.get("scorers"), list):
        made["scorers"] = [_scorer(entry) for entry in made["scorers"]]
    return made


def _scorer(entry: Any) -> Any:
    """`exact_match`, `{regex: {pattern: …}}` (a `label` may stand among the options), or written in full."""
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, dict) and len(entry) == 1 and "name" not in entry:
        ((name, options),) = entry.items()
        if options is None or isinstance(options, dict):
            rest = dict(options or {})
            return {"name": name, "label": rest.pop("label", ""), "options": rest}
    return entry


def _with_text_metadata(case: Any) -> Any:
    if not isinstance(case, dict) or not isinstance(case.get("metadata"), dict):
        return case
    texts = {
        str(key): str(value) if isinstance(value, bool | int | float) else value
        for key, value in case["metadata"].items()
    }
    return {**case, "metadata": texts}


def _sourced(source: dict[str, Any], folder: str) -> Iterator[Any]:
    """Cases from `{file: cases.jsonl}`, or from `{function: "module:name", options: {…}}`."""
    if set(source) == {"file"}:
        file = Path(folder) / str(source["file"])
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{file}: {error}") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield msgspec.json.decode(line)
                except msgspec.DecodeError as error:
                    raise SourceError(f"{file}:{number}: not JSON: {error}") from error
    elif "function" in source and set(source) <= {"function", "options"}:
        module, _, name = str(source["function"]).partition(":")
        try:
            with importing_from(folder):
                made = getattr(importlib.import_module(module), name)(**(source.get("options") or {}))
                yield from (msgspec.to_builtins(case) for case in made)
        except Exception as error:  # whatever the user's own code raises
            raise SourceError(f"{source['function']}: {type(error).__name__}: {error}") from error
    else:
        raise SourceError("is a list, {file: cases.jsonl}, or {function: module:name, options: {…}}")
