"""`outrider eval compare A B`: two runs of one suite, case by case; the second against the first."""

from __future__ import annotations

import argparse
from pathlib import Path

from deployments.cli.evaluation_run import add_limits, limits_of

HELP = "compare two runs of one suite case by case"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, help="the --out folder of the run to compare with")
    parser.add_argument("second", type=Path, help="the --out folder of the other run")
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Print the comparison as Markdown; returns the exit status."""
    from evaluation.quality.report import tables
    from evaluation.quality.report.writing import Section, markdown_of
    from evaluation.quality.results import compare_runs

    limits = limits_of(args)
    found = compare_runs(args.first, args.second, limits)
    if not found:
        raise ValueError(f"{args.first} and {args.second} have no variant in common")
    sections = [
        Section("Scores", tables.verdicts(found, limits.margin)),
        Section("Tokens", tables.tokens(found)),
    ]
    print(markdown_of(f"{args.second} against {args.first}", "", [], sections))
    return 0
