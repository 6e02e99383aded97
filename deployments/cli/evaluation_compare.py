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
    from evaluation.quality.results import compare_runs
    from evaluation.report import quality_tables
    from evaluation.report.page import MARKDOWN, Page, Section, rendered

    limits = limits_of(args)
    found = compare_runs(args.first, args.second, limits)
    if not found:
        raise ValueError(f"{args.first} and {args.second} have no variant in common")
    sections = [
        Section("Scores", quality_tables.verdicts(found, limits.margin)),
        Section("Tokens", quality_tables.tokens(found)),
    ]
    print(rendered(MARKDOWN, Page(title=f"{args.second} against {args.first}", sections=sections)))
    return 0
