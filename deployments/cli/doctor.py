"""`outrider doctor`: looks at everything that a start needs, and says how to mend what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from deployments.checks.certificates import check_certificates
from deployments.checks.checkpoints import check_checkpoints
from deployments.checks.finding import Finding, problem, unknown
from deployments.checks.keys import check_keys
from deployments.checks.versions import check_versions
from deployments.config import POCKET, ConfigError, OutriderConfig, load

_MARKS = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM", "unknown": "unknown"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="configuration; by default the pocket models"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the same")
    parser.add_argument(
        "--address", help="look at the machines of a running Ray cluster (host:port, or auto), not at this one alone"
    )
    parser.add_argument(
        "--models", nargs="+", type=Path, metavar="FOLDER", help="look at a target, and its assistant, and nothing else"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Print every finding; 1 if there is a problem, else 0."""
    if args.models is not None:
        findings = check_checkpoints(args.models[0], args.models[1] if len(args.models) > 1 else None)
    else:
        findings = list(_examine(args.config or args.file, args.address))
    num_problems = sum(finding.state == "problem" for finding in findings)
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(findings), indent=2).decode() + "\n")
    else:
        for finding in findings:
            print(f"{_MARKS[finding.state]}  {finding.check}: {finding.detail}")
            if finding.remedy:
                print(f"         -> {finding.remedy}")
        print(f"{num_problems} problem(s)" if num_problems else "nothing stands in the way")
    return 1 if num_problems else 0


def _examine(file: Path | None, address: str | None) -> Iterator[Finding]:
    yield from check_versions()
    try:
        config = load(file)
    except (ConfigError, OSError) as error:
        yield problem("configuration", str(error), "docs/configuration.md has every field")
        return
    yield from _models(config, address)
    yield from _machines(config, address)
    yield from _guarded("certificates", lambda: check_certificates(config))
    yield from _guarded("keys", lambda: check_keys(config))


def _models(config: OutriderConfig, address: str | None) -> Iterator[Finding]:
    try:
        resolved = config.resolve()
    except ConfigError as error:
        remedy = "mend the field, or download the model"
        if address is None or config.model.model_source == POCKET:
            yield problem("configuration", str(error), remedy)
        else:
            yield unknown(
                "models", f"not on this machine ({error})", "run `outrider doctor` on one of the nodes as well"
            )
        return
    model, kinds = resolved.model, resolved.drafter_kinds
    assistant = Path(model.assistant_source) if "mtp" in kinds else None
    has_draft_model = "draft_model" in kinds and model.draft_model_source is not None
    draft_model = Path(str(model.draft_model_source)) if has_draft_model else None
    yield from _guarded("models", lambda: check_checkpoints(Path(model.model_source), assistant, draft_model))


def _machines(config: OutriderConfig, address: str | None) -> Iterator[Finding]:
    from cluster import nodes
    from deployments.checks.machines import check_machines
    from deployments.checks.ports import check_ports

    if address is None:
        yield from _guarded("machines", lambda: check_machines(config, [nodes.this_machine()]))
        yield from _guarded("ports", lambda: check_ports(config))
        return
    try:
        with nodes.connected(address):
            yield from check_machines(config, nodes.cluster_nodes())
    except nodes.NoCluster as error:
        yield problem("machines", str(error), "give the address and the token of a running one (RAY_AUTH_TOKEN)")
    yield unknown("ports", "those of the cluster's machines", "run `outrider doctor` on one of the nodes as well")


def _guarded(check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that fails itself is a problem too: nobody knows then."""
    try:
        return look()
    except Exception as error:
        return [problem(check, f"the check failed: {type(error).__name__}: {error}", "please report this")]
