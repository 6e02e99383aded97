"""Scorers of Python code: it parses, or it passes given asserts in a process of its own with limits.

The limits bound CPU time, wall time, memory and files. They are no sandbox: the code runs as the user who evaluates,
and can read what that user can read. Nothing blocks the network: evaluate models that you would let run code, or do it
in a container without a network.
"""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

from evaluation.quality.scoring import Score, register
from evaluation.quality.suite import Case

_FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)(?:```|\Z)", re.DOTALL)
MAX_OUTPUT_CHARS = 200

# Runs in the child: limits first, then the program. Without user site packages and without this house's modules (-I).
_RUNNER = """
import resource, sys
cpu_s, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
exec(compile(open("program.py", encoding="utf-8").read(), "program.py", "exec"), {"__name__": "program"})
open("passed", "w").close()
"""


def program_of(case: Case, answer: str, prefix_input: bool) -> str:
    """The code to judge: a fenced block if there is one, else the answer; behind the case's input if that is code."""
    match = _FENCE.search(answer)
    code = match[1] if match else answer
    if not prefix_input:
        return code
    if not isinstance(case.input, str):
        raise ValueError("`prefix_input` needs a text as the case's input")
    return case.input + code


def parse_error(code: str) -> str | None:
    """Why the code is not Python, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a doubtful escape in the answer is no warning of ours
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"[:MAX_OUTPUT_CHARS]
    return None


@register("python_parses")
class PythonParses:
    """1 if the code is Python. With `prefix_input` the case's input stands before it, as in a completion."""

    def __init__(self, prefix_input: bool = False) -> None:
        self.prefix_input = prefix_input

    def check(self, case: Case) -> None:
        program_of(case, "", self.prefix_input)

    def __call__(self, case: Case, answer: str) -> Score:
        code = program_of(case, answer, self.prefix_input)
        error = parse_error(code) or ("" if code.strip() else "no code")
        return Score(0.0, {"error": error}) if error else Score(1.0)


@register("python_asserts")
class PythonAsserts:
    """The share of expected statements that run without an exception behind the code; each has a process of its own.

    The case's `expected` is one statement or a list of them. A fresh interpreter for each, so that one endless loop or
    exit cannot hide another's result.
    """

    def __init__(self, prefix_input: bool = False, cpu_s: int = 2, memory_mb: int = 256, wall_s: float = 10.0) -> None:
        if cpu_s < 1 or memory_mb < 64 or wall_s <= 0:
            raise ValueError("cpu_s must be at least 1, memory_mb at least 64, wall_s more than 0")
        self.prefix_input = prefix_input
        self.cpu_s = cpu_s
        self.memory_bytes = memory_mb << 20
        self.wall_s = wall_s

    def check(self, case: Case) -> None:
        program_of(case, "", self.prefix_input)
        for statement in self._statements(case):
            if error := parse_error(statement):
                raise ValueError(f"{statement!r}: {error}")

    def __call__(self, case: Case, answer: str) -> Score:
        code = program_of(case, answer, self.prefix_input)
        if error := parse_error(code):
            return Score(0.0, {"error": error})
        statements = self._statements(case)
        errors = [self._run(f"{code}\n{statement}\n") for statement in statements]
        failed = [error for error in errors if error is not None]
        details = {"error": failed[0]} if failed else {}
        return Score(1 - len(failed) / len(statements), dict(details))

    def _statements(self, case: Case) -> list[str]:
        value = [case.expected] if isinstance(case.expected, str) else case.expected
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            raise ValueError("must be a statement or a list of them")
        return value

    def _run(self, program: str) -> str | None:
        """What went wrong, or None. The program passes only if it comes to its end: exit(0) is no pass."""
        with tempfile.TemporaryDirectory(prefix="outrider-eval-") as name:
            folder = Path(name)
            (folder / "program.py").write_text(program, encoding="utf-8", errors="replace")
            status = self._wait(folder)
            if (folder / "passed").is_file():
                return None
            lines = (folder / "errors").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if status is None:
            return f"longer than {self.wall_s:g} s"
        return (lines[-1] if lines else f"ended with status {status}")[:MAX_OUTPUT_CHARS]

    def _wait(self, folder: Path) -> int | None:
        """Run the program to its end and return its status, None past the deadline; nothing it started is left."""
        # A file, not a pipe: a pipe stays open for as long as some grandchild lives.
        with (folder / "errors").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", _RUNNER, str(self.cpu_s), str(self.memory_bytes)],
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            try:
                return process.wait(self.wall_s)
            except subprocess.TimeoutExpired:
                return None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
