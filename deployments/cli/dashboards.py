"""`outrider dashboards`: push the Grafana dashboard, say what a push would change, or export it and the rules."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from deployments.cli.arguments import above_zero
from deployments.monitoring import dashboard, rules
from deployments.monitoring.bounds import BoundsError, read_bounds
from deployments.monitoring.grafana import Grafana, GrafanaFailed, differences

_TOKEN_VARIABLE = "GRAFANA_TOKEN"
_FOLDER_TITLE = "Outrider"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    push = actions.add_parser("push", help="write the dashboard into a Grafana, if it is not there as it should be")
    diff = actions.add_parser("diff", help="show where a Grafana's dashboard differs; exit status 1 if it does")
    for action in (push, diff):
        action.add_argument("--url", required=True, help="the Grafana, as https://grafana.example.org[/path]")
        action.add_argument(
            "--token-file",
            type=Path,
            metavar="FILE",
            help=f"file with a service account's token; by default the variable {_TOKEN_VARIABLE}",
        )
        action.add_argument("--timeout-s", type=above_zero, default=10.0, help="for each call (default 10)")
    export = actions.add_parser("export", help="write dashboard.json, rules.yaml and prometheus-rule.yaml")
    export.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write them")
    export.add_argument(
        "--bounds", type=Path, metavar="FILE", help="YAML: other bounds of alerts, by name (docs/observability.md)"
    )


def run(args: argparse.Namespace) -> int:
    """Do one action; 0 on success, 1 if `diff` finds something, 2 on failure."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {"push": _push, "diff": _diff, "export": _export}
    try:
        return actions[args.action](args)
    except BrokenPipeError:  # of the output; main knows what that means
        raise
    except (GrafanaFailed, BoundsError, OSError) as error:
        print(f"outrider dashboards: {error}", file=sys.stderr)
        return 2


def _push(args: argparse.Namespace) -> int:
    has_written = _grafana(args).push(dashboard.build(), _FOLDER_TITLE)
    where = f"{args.url.rstrip('/')}/d/{dashboard.UID}"
    print(f"{where} is written" if has_written else f"{where} is as it should be: nothing written")
    return 0


def _diff(args: argparse.Namespace) -> int:
    stored = _grafana(args).stored(dashboard.UID)
    if stored is None:
        print("the dashboard is not there")
        return 1
    found = list(differences(dashboard.build(), stored.dashboard))
    print("\n".join(found) or "no difference")
    return 1 if found else 0


def _export(args: argparse.Namespace) -> int:
    alerts = rules.ALERTS if args.bounds is None else read_bounds(args.bounds)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, content in exported(alerts).items():
        (args.out / name).write_text(content, "utf-8")
        print(args.out / name)
    return 0


def exported(alerts: Sequence[rules.Alert] = rules.ALERTS) -> dict[str, str]:
    """The files by name: what Grafana, Prometheus and the Prometheus operator read."""
    head = "# Written by `outrider dashboards export`.\n"
    return {
        "dashboard.json": json.dumps(dashboard.build(), indent=1) + "\n",
        "rules.yaml": head + yaml.safe_dump(rules.build(alerts), sort_keys=False, width=1000),
        "prometheus-rule.yaml": head + yaml.safe_dump(rules.build_resource(alerts), sort_keys=False, width=1000),
    }


def _grafana(args: argparse.Namespace) -> Grafana:
    try:
        token = args.token_file.read_text("ascii").strip() if args.token_file else os.environ.get(_TOKEN_VARIABLE, "")
    except UnicodeDecodeError as error:
        raise GrafanaFailed(f"{args.token_file} holds no token: {error}") from error
    if not token:
        raise GrafanaFailed(f"no token: set {_TOKEN_VARIABLE}, or name a file that holds one with --token-file")
    return Grafana(args.url, token, args.timeout_s)
