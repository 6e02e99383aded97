"""Source files and documentation that every Python installation carries."""

import ast
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from evaluation.pocket.records import words

SKIPPED_FOLDERS = frozenset(
    words("site-packages test tests idlelib lib2to3 encodings pydoc_data turtledemo ensurepip __phello__ lib-dynload")
)
SKIPPED_PREFIXES = ("_sysconfigdata", "__hello__")
HELD_OUT_MODULES = frozenset(
    words(
        "statistics textwrap shlex csv fractions calendar configparser sched fileinput cmd mailcap netrc "
        "json.encoder http.cookies logging.handlers asyncio.queues email.charset urllib.robotparser xml.dom.pulldom "
        "concurrent.futures.thread unittest.suite wsgiref.headers multiprocessing.pool importlib.metadata"
    )
)
FULL_WIDTH = 4000


@dataclass(frozen=True, kw_only=True)
class Module:
    name: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Function:
    """A function cut where a completion would start: after its docstring, or after its first lines."""

    module: str
    name: str
    head: str
    body: str


def stdlib_root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


@cache
def split_modules(*, held_out: bool) -> tuple[Module, ...]:
    """Read one side of the standard library, without its tests and tables, in a fixed order."""
    root = stdlib_root()
    found = []
    for path in source_files(root):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if is_held_out_module(name) == held_out:
            source = path.read_text(encoding="utf-8", errors="replace").expandtabs()
            found.append(Module(name=name, source=source))
    return tuple(found)


def source_files(root: Path) -> list[Path]:
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and not name.startswith("config-")]
        names = [name for name in files if name.endswith(".py") and not name.startswith(SKIPPED_PREFIXES)]
        found += [Path(folder, name) for name in names]
    return sorted(found)


def is_held_out_module(name: str) -> bool:
    return any(name == held or name.startswith(held + ".") for held in HELD_OUT_MODULES)


@cache
def parsed(module: Module) -> ast.Module:
    return ast.parse(module.source)


def functions(module: Module) -> Iterator[Function]:
    """Yield the functions and methods of a module that have a body worth completing."""
    lines = module.source.splitlines()
    for node in ast.walk(parsed(module)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
            continue
        own = lines[node.lineno - 1 : node.end_lineno]
        cut = first_statement(node) - node.lineno
        cut = min(max(cut, 2), len(own) - 2)
        if cut < 1:
            continue
        indent = len(own[0]) - len(own[0].lstrip())
        own = [line[indent:] if not line[:indent].strip() else line for line in own]
        head, body = "\n".join(own[:cut]) + "\n", "\n".join(own[cut:]) + "\n"
        if len(head) + len(body) < FULL_WIDTH and len(body) > 60:
            yield Function(module=module.name, name=node.name, head=head, body=body)


def first_statement(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the line of the first statement after the docstring."""
    has_docstring = ast.get_docstring(node, clean=False) is not None
    if has_docstring and len(node.body) > 1:
        return node.body[1].lineno
    return node.body[0].lineno


def docstrings(module: Module) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, cleaned docstring) of the module and everything documented in it."""
    tree = parsed(module)
    text = ast.get_docstring(tree)
    if text:
        yield module.name, text
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = ast.get_docstring(node)
            if text:
                yield f"{module.name}.{node.name}", text


@cache
def topics() -> tuple[tuple[str, str], ...]:
    """Read the language reference that `help()` shows, as (topic, text), and the licence text."""
    source = (stdlib_root() / "pydoc_data" / "topics.py").read_text(encoding="utf-8")
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Dict):
            found.update(
                {
                    ast.literal_eval(key): ast.literal_eval(value)
                    for key, value in zip(node.keys, node.values, strict=True)
                    if key
                }
            )
    licence = stdlib_root() / "LICENSE.txt"
    if licence.exists():
        found["licence"] = licence.read_text(encoding="utf-8")
    return tuple(sorted(found.items()))
