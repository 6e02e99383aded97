"""The command line of a run; nothing heavy is loaded before one begins."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.cli.arguments import above_zero, at_least_zero, counts, output_file, positive, positives
from evaluation.load.accelerator.published import SHAPES
from evaluation.load.accelerator.records import SECTIONS, Budget, Plan

HELP = "time verify steps and drafts on a GPU, on random checkpoints in the shapes of the published models"
_NUMBERS = {
    "sessions": "numbers of sessions (1,2,4,8,16,32,64)",
    "lookaheads": "drafted tokens to verify, in order of interest (4,0,8,2)",
    "draft_lookaheads": "tokens to draft (4,1,8)",
    "long_sessions": "numbers of sessions at the long context (1,8)",
    "prompt_chunks": "sizes of prompt chunks (128,256,512,1024)",
}
_NUMBER = {
    "context": "tokens of a session (512)",
    "short_context": "the same where not all sessions fit into memory (128)",
    "long_context": "the same of a few sessions (4096)",
    "repeats": "timed steps of a cell (10)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What a run can be told."""
    parser.add_argument("--shape", choices=tuple(SHAPES), default="31b", help="whose shape the models have (31b)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where they run (cuda)")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="(bfloat16)")
    parser.add_argument("--budget-s", type=above_zero, default=240.0, help="seconds; no cell begins after them (240)")
    for name, what in _NUMBERS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=counts if name == "lookaheads" else positives, help=what
        )
    for name, what in _NUMBER.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, help=what)
    parser.add_argument("--sections", type=_sections, default=SECTIONS, help=f"of {','.join(SECTIONS)} (all)")
    parser.add_argument(
        "--reserve-gib", type=at_least_zero, default=6.0, help="GPU memory left to what a step works on (6)"
    )
    parser.add_argument("--profile", action="store_true", help="also print which kernels a step's time goes into")
    parser.add_argument(
        "--out", type=output_file, metavar="FILE", help="write everything to this JSON file, after each section"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print lines as they come and tables at the end; the exit status."""
    import torch

    from evaluation.load.accelerator.measuring import Options, Run
    from evaluation.load.accelerator.report import to_markdown
    from evaluation.load.report import describe_environment

    if args.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; --device cpu --shape tiny tries the command", file=sys.stderr)
        return 1
    given = {name: getattr(args, name) for name in (*_NUMBERS, *_NUMBER) if getattr(args, name)}
    environment = describe_environment(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    environment["device"] = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"

    def save(findings: dict[str, Any]) -> None:
        if args.out is not None:
            args.out.write_text(json.dumps({"environment": environment, **findings}, indent=1) + "\n")

    options = Options(
        shape=args.shape,
        device=args.device,
        dtype=args.dtype,
        plan=replace(Plan(), **given),
        sections=args.sections,
        reserve_bytes=int(args.reserve_gib * (1 << 30)),
        profile=args.profile,
    )
    measuring = Run(options=options, budget=Budget(args.budget_s), say=lambda line: print(line, flush=True), save=save)
    findings = measuring.run()
    where = f"{args.shape} in {args.dtype} on {environment['device']}"
    measuring.conclude(
        f"{args.shape} target and its assistant, each on a device of its own: {where}",
        f"measured: random weights of the published shape, {where}, {environment['date']}; the hop is assumed",
    )
    print(to_markdown(findings.steps, findings.drafts))
    if findings.cost_table is not None:
        print(json.dumps({f"measured-{args.shape}": findings.cost_table}))
    print("; ".join(str(environment[key]) for key in ("device", "machine", "versions", "date", "command")), flush=True)
    return 1 if findings.failures else 0


def _sections(text: str) -> tuple[str, ...]:
    asked = tuple(text.split(","))
    if unknown := sorted(set(asked) - set(SECTIONS)):
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]!r}: use {', '.join(SECTIONS)}")
    return asked
