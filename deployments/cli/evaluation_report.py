"""`outrider eval report FOLDER`: score kept answers anew and write the report again."""

from __future__ import annotations

import argparse
from pathlib import Path

from deployments.cli.evaluation_run import add_limits, finish, limits_of, own_command

HELP = "score a run's kept answers anew and write its report again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the --out folder of a run")
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Score and write; returns the exit status."""
    from evaluation.load.report import describe_environment
    from evaluation.quality.results import kept_results

    # Where and how the answers were made stays what it was.
    kept = kept_results(args.folder)
    made = kept.environment if kept else describe_environment("unknown: the run did not come to its end")
    return finish(args.folder, limits_of(args), {**made, "scored by": own_command()})
