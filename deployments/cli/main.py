"""The `outrider` command: one verb per file, imported when it is used."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

VERBS = {
    "serve": ("deployments.cli.serve", "serve a model on this machine until Ctrl-C"),
    "config": ("deployments.cli.config_cmd", "print the serveConfigV2 of a configuration, for `serve deploy`"),
    "doctor": ("deployments.cli.doctor", "check versions, machines, ports, certificates and models; say how to mend"),
    "chat": ("deployments.cli.chat", "talk to an endpoint, tokens coloured by where they came from"),
    "keys": ("deployments.cli.keys", "make, list and revoke API keys"),
    "certificates": ("deployments.cli.certificates", "make certificates for the streams of a trial cluster"),
    "dashboards": ("deployments.cli.dashboards", "push the Grafana dashboard, or export it and the alerts"),
    "top": ("deployments.cli.top", "show what every role of a running endpoint does"),
    "eval": ("deployments.cli.evaluation", "measure quality on a suite of your own, and what speculation buys for it"),
    "bench": ("deployments.cli.bench", "measure an endpoint's speed beside HF generate"),
}
"""By verb: the module with `add_arguments(parser)` and `run(args) -> int`, and its line in the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    try:
        args = _parse(list(sys.argv[1:] if arguments is None else arguments))
        status = int(args.run(args))
        sys.stdout.flush()  # so that a reader who has gone is noticed here
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has enough; what is left must not be tried again at the interpreter's end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="outrider", description="Disaggregated speculative decoding for large language models on Ray Serve."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for verb, (module, line) in VERBS.items():
        sub = verbs.add_parser(verb, help=line, description=line[0].upper() + line[1:] + ".")
        if verb == asked:
            chosen = import_module(module)
            chosen.add_arguments(sub)
            sub.set_defaults(run=chosen.run)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
