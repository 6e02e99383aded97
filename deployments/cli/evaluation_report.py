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
    return finish(args.folder, limits_of(args), own_command())
