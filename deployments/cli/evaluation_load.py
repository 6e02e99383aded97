"""`outrider eval load`: what speculation buys, by class of text; quality is `outrider eval run`'s."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from deployments.cli.arguments import positive, positives
from deployments.cli.evaluation_run import add_endpoint, add_variants, key_of, own_command, progress_bar, told

HELP = "measure speed by class of text and variant, with prompts and answers of fixed length"
CLASSES = "structured,code,prose,summary"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_endpoint(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("eval-load"), help="folder of figures and report; a run's is fine"
    )
    parser.add_argument("--classes", default=CLASSES, help=f"built-in texts (default {CLASSES}); empty for none")
    parser.add_argument("--suite", action="append", default=[], help="a suite whose inputs are a class; repeatable")
    parser.add_argument("--prompt-tokens", type=positive, default=128, help="length of every prompt (default 128)")
    parser.add_argument("--output-tokens", type=positive, default=64, help="length of every answer (default 64)")
    parser.add_argument(
        "--streams", type=positives, default=(1, 8), help="requests in flight, such as 1,8 (the default)"
    )
    parser.add_argument("--waves", type=positive, default=2, help="timed answers per stream and repeat (default 2)")
    parser.add_argument("--repeats", type=positive, default=3, help="interleaved repeats (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the texts (default 0)")
    parser.add_argument("--hardware", help="what the endpoint runs on, in your words, for the report")
    add_variants(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, write figures and report, print it; returns the exit status."""
    from evaluation.load.report import describe_environment, machine
    from evaluation.load.throughput import Measurement, Target
    from evaluation.load.throughput_prompts import built_in_class, class_of_suite
    from evaluation.load.throughput_records import Lengths, Throughput, keep
    from evaluation.quality.variants import read_variants
    from evaluation.report.writing import write_report

    lengths = Lengths(
        prompt_tokens=args.prompt_tokens,
        output_tokens=args.output_tokens,
        streams=args.streams,
        num_waves=args.waves,
        num_repeats=args.repeats,
        seed=args.seed,
    )
    classes = [built_in_class(name, args.seed) for name in args.classes.split(",") if name]
    classes += [class_of_suite(suite) for suite in args.suite]
    if not classes:
        raise ValueError("nothing to measure: give --classes or --suite")
    variants = read_variants(args.variants, args.variant)
    target = Target(url=args.url, model=args.model, api_key=key_of(args), timeout_s=args.timeout)
    measurement = Measurement(target, classes, variants, lengths)
    args.out.mkdir(parents=True, exist_ok=True)  # now, and not when there is something to lose
    with progress_bar("throughput") as progress:
        asyncio.run(measurement.run(progress))
    found = Throughput(
        url=args.url,
        model=measurement.model,
        hardware=args.hardware or f"not told; measured from {machine()}",
        environment=describe_environment(own_command()),
        lengths=lengths,
        variants=variants,
        has_fixed_prompts=measurement.has_fixed_prompts,
        memory_bytes=measurement.memory_bytes,
        cells=tuple(measurement.cells()),
    )
    keep(args.out, found)
    return told(write_report(args.out))
