"""`outrider eval suites`: what can be asked for by name."""

from __future__ import annotations

import argparse

HELP = "list the built-in suites, their scorers and their numbers of cases"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(args: argparse.Namespace) -> int:
    """Print one line per suite."""
    from evaluation.quality.loading import built_in_names, load_suite

    for name in built_in_names():
        suite = load_suite(name)
        metrics = ", ".join(spec.metric for spec in suite.scorers)
        print(f"{name}: {suite.description} ({len(suite.cases)} cases; {metrics})")
    return 0
