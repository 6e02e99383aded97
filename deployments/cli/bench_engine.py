"""`outrider bench engine`: the engines alone beside transformers' and vLLM's, as Markdown tables."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from deployments.cli.arguments import exit_on_signal, output_file, positive, positives
from evaluation.load.engines.records import FULL, PAIRS, QUICK, SYSTEMS

HELP = "measure the engines alone, in one process each, beside HF generate, HF continuous batching and vLLM"
CLASSES = FULL.tasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, at most five minutes")
    parser.add_argument(
        "--vllm-python", type=Path, help="an interpreter whose environment has vLLM; else it is left out"
    )
    for name, choices in (("systems", SYSTEMS), ("pairs", PAIRS), ("classes", CLASSES)):
        parser.add_argument(
            f"--{name}", type=_some_of(choices), default=choices, help=f"of {','.join(choices)} (default: all)"
        )
    for name, what in (
        ("streams", "prompts answered at a time"),
        ("prompt-tokens", "length of the prompts"),
        ("lookaheads", "lookaheads to try, of Outrider and HF"),
        ("vllm-lookaheads", "lookaheads to try, of vLLM: each is an engine of its own, and stays in memory"),
    ):
        parser.add_argument(f"--{name}", type=positives, help=f"{what}, separated by commas")
    parser.add_argument("--repeats", type=positive, help="interleaved runs per cell")
    parser.add_argument("--max-tokens", type=positive, help="bound on each answer")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), help="of each engine (default: all cores)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the engines run (cpu)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the models (float32)")
    parser.add_argument("--out", type=output_file, metavar="FILE", help="also write the rows to this JSON file")


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, and return the exit status."""
    from evaluation.load.bench import to_stderr
    from evaluation.load.engines.fleet import EngineOptions
    from evaluation.load.engines.report import rows, to_markdown
    from evaluation.load.engines.run import run_engine_bench
    from evaluation.load.engines.worker_process import WorkerError
    from evaluation.load.report import describe_environment

    if (problem := _problem(args)) is not None:
        print(f"outrider bench engine: {problem}", file=sys.stderr)
        return 1
    plan = QUICK if args.quick else FULL
    streams = args.streams or tuple(plan.num_prompts)
    plan = replace(
        plan,
        num_repeats=args.repeats or plan.num_repeats,
        max_tokens=args.max_tokens or plan.max_tokens,
        num_prompts={count: plan.num_prompts.get(count, 2 * count) for count in streams},
        prompt_tokens=args.prompt_tokens or plan.prompt_tokens,
        lookaheads=args.lookaheads or plan.lookaheads,
        vllm_lookaheads=args.vllm_lookaheads or plan.vllm_lookaheads,
        tasks=args.classes,
    )
    options = EngineOptions(
        systems=args.systems,
        vllm_python=args.vllm_python,
        threads=args.threads,
        plan=plan,
        device=args.device,
        dtype=args.dtype,
    )
    # Engines were started here: they must be ended on a plain `kill`, too.
    signal.signal(signal.SIGTERM, exit_on_signal)
    try:
        results, versions = run_engine_bench(options, args.pairs, to_stderr)
    except (WorkerError, OSError) as error:
        print(f"outrider bench engine: {error}", file=sys.stderr)
        return 1
    environment = describe_environment(shlex.join(["outrider", *sys.argv[1:]]))
    environment["engines"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(to_markdown(results, environment))
    if args.out is not None:
        args.out.write_text(json.dumps({"environment": environment, "rows": rows(results)}, indent=1) + "\n")
    return 0


def _problem(args: argparse.Namespace) -> str | None:
    """Why there is nothing to measure, before anything is loaded."""
    if set(args.systems) == {"vllm"} and args.vllm_python is None:
        return "vLLM alone needs --vllm-python, an interpreter whose environment has it"
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return "there is no CUDA device here"
    return None


def _some_of(choices: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def some(text: str) -> tuple[str, ...]:
        asked = tuple(text.split(","))
        for name in asked:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"there is no {name!r}: use {', '.join(choices)}")
        return asked

    return some
