"""`outrider bench`: an endpoint's speed beside HF `generate`; `outrider bench KIND`: another bench. Markdown tables.

Each kind is a module with `add_arguments(parser)` and `run(args)`, like a verb of the command.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from dataclasses import replace
from importlib import import_module
from importlib.resources import files
from pathlib import Path

from deployments.cli.arguments import exit_on_signal, output_file, positive

HELP = "measure tokens/s with speculation off and on, beside HF generate"

KINDS = {
    "accelerator": "evaluation.load.accelerator.command",
    "engine": "deployments.cli.bench_engine",
    "sweep": "deployments.cli.bench_sweep",
}
"""By name: the module of each kind of bench beside the endpoint's, which has none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", help="another bench than the endpoint's")
    for kind, module in KINDS.items():
        chosen = import_module(module)
        sub = kinds.add_parser(kind, help=chosen.HELP, description=chosen.HELP[0].upper() + chosen.HELP[1:] + ".")
        chosen.add_arguments(sub)
        sub.set_defaults(run=chosen.run)
    pocket = Path(str(files("deployments.models"))) / "pocket"
    parser.add_argument("--url", help="an endpoint that is running; by default one is started and stopped here")
    parser.add_argument("--config", type=Path, help="configuration of the endpoint that is started here")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, at most five minutes")
    parser.add_argument("--repeats", type=positive, help="interleaved runs per cell")
    parser.add_argument("--max-tokens", type=positive, help="bound on each answer")
    parser.add_argument(
        "--num-speculative-tokens", type=positive, help="lookahead of the endpoint; by default it decides"
    )
    parser.add_argument("--target", type=Path, default=pocket / "target", help="checkpoint for HF generate")
    parser.add_argument("--assistant", type=Path, default=pocket / "assistant", help="assistant for HF generate")
    parser.add_argument("--assistant-tokens", type=positive, default=5, help="HF's tokens per draft (default 5)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where HF generate runs (cpu)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of its models (float32)")
    parser.add_argument("--no-hf", action="store_true", help="leave HF generate out")
    parser.add_argument("--out", type=output_file, metavar="FILE", help="also write every sample to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, and return the exit status."""
    from evaluation.client import EndpointError
    from evaluation.load.bench import FULL, QUICK, BenchOptions, run_bench, to_stderr
    from evaluation.load.report import describe_environment, to_json, to_markdown
    from evaluation.load.server import ServerError

    plan = QUICK if args.quick else FULL
    plan = replace(plan, num_repeats=args.repeats or plan.num_repeats, max_tokens=args.max_tokens or plan.max_tokens)
    options = BenchOptions(
        url=args.url,
        config=args.config,
        target=None if args.no_hf else args.target,
        assistant=None if args.no_hf else args.assistant,
        assistant_tokens=args.assistant_tokens,
        device=args.device,
        dtype=args.dtype,
        num_speculative_tokens=args.num_speculative_tokens,
        plan=plan,
    )
    # A server was started here: it must be stopped on a plain `kill`, too.
    signal.signal(signal.SIGTERM, exit_on_signal)
    try:
        results = run_bench(options, to_stderr)
    except (EndpointError, ServerError, OSError, ValueError) as error:
        print(f"outrider bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    environment = describe_environment(shlex.join(["outrider", *sys.argv[1:]]))
    print(to_markdown(results, environment))
    if args.out is not None:
        args.out.write_text(json.dumps(to_json(results, environment), indent=1) + "\n")
    return 0
