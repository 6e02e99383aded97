"""Tables about the pocket models, printed row by row as they are measured: some take an hour."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path


def print_table(description: str | None, measure: Callable[[Path, int, int], Iterator[str]]) -> None:
    """Run `measure(root, number of prompts per class, tokens per answer)` with what the command line says."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(str(files("deployments.models"))) / "pocket")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    asked = parser.parse_args()
    for line in measure(asked.root, asked.prompts, asked.tokens):
        print(line, flush=True)
