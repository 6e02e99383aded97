"""`outrider eval report FOLDER...`: score kept answers anew and write the report again, or one of several runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from deployments.cli.evaluation_run import add_limits, finish, limits_of, own_command, told

HELP = "score a run's kept answers anew and write its report again, or one page of several runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="the --out folder of a run")
    parser.add_argument("--out", type=Path, help="put the folders' reports, as they are, on one page in this folder")
    add_limits(parser)


def run(args: argparse.Namespace) -> int:
    """Score and write; returns the exit status."""
    from evaluation.load.report import describe_environment
    from evaluation.quality.results import kept_results
    from evaluation.report.writing import write_joint_report

    if args.out is not None:
        return told(write_joint_report(args.folders, args.out))
    if len(args.folders) > 1:
        raise ValueError("several folders need --out, the folder of the page that they share")
    (folder,) = args.folders
    # Where and how the answers were made stays what it was.
    kept = kept_results(folder)
    made = kept.environment if kept else describe_environment("unknown: the run did not come to its end")
    return finish(folder, limits_of(args), {**made, "scored by": own_command()})
