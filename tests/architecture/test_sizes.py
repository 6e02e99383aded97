"""Files and functions stay short enough to be read at once."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("deployments", "cluster", "autoscaling", "evaluation", "tests")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def long_functions(source: str) -> Iterator[str]:
    """Name each function whose lines, decorators aside, exceed the limit."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            num_lines = node.end_lineno - node.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                yield f"{node.name} has {num_lines} lines"


def test_there_are_sources() -> None:
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_and_functions_are_short(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES
    assert not list(long_functions(source))


def test_a_long_function_is_noticed() -> None:
    body = "    x = 1\n" * MAX_FUNCTION_LINES
    assert list(long_functions(f"def f():\n{body}")) == ["f has 61 lines"]
    assert not list(long_functions(f"def f():\n{body[10:]}"))
