"""`outrider eval ACTION`: quality on suites of cases, variants compared, throughput, reports.

Each action is a module with `HELP`, `add_arguments(parser)` and `run(args)`, like a verb of the command.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

ACTIONS = {
    "run": "deployments.cli.evaluation_run",
    "load": "deployments.cli.evaluation_load",
    "report": "deployments.cli.evaluation_report",
    "compare": "deployments.cli.evaluation_compare",
    "suites": "deployments.cli.evaluation_suites",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, module in ACTIONS.items():
        chosen = import_module(module)
        sub = actions.add_parser(action, help=chosen.HELP, description=chosen.HELP[0].upper() + chosen.HELP[1:] + ".")
        chosen.add_arguments(sub)
        sub.set_defaults(act=chosen.run)


def run(args: argparse.Namespace) -> int:
    """Run the action; 130 when it was interrupted."""
    from evaluation.client import EndpointError, RefusedError

    try:
        return int(args.act(args))
    except BrokenPipeError:  # of the output; main knows what that means
        raise
    except (EndpointError, RefusedError, OSError, ValueError, ImportError) as error:
        print(f"outrider eval: {error}", file=sys.stderr)
        return 1
