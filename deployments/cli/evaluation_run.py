"""`outrider eval run SUITE`: have a suite answered, score it, report. The same command goes on after a stop."""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deployments.cli.arguments import above_zero, at_least_zero, number, positive
from evaluation.quality.suite import DomainEvalSuite

if TYPE_CHECKING:
    from evaluation.quality.results import Limits

HELP = "have a suite answered by an endpoint, score the answers, and write a report"
EPILOG = """\
examples:
  outrider eval run capitals.yaml --url http://127.0.0.1:8000 --out capitals
  outrider eval run extraction --url http://127.0.0.1:8000 --out extraction \\
    --variant 'mtp={"speculation": {"drafter": "mtp", "num_speculative_tokens": 4}}'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("suite", help="a .yaml or .py file, or the name of a built-in suite")
    add_endpoint(parser)
    parser.add_argument("--out", type=Path, help="folder of answers, results and report (default eval-SUITE)")
    parser.add_argument("--concurrency", type=positive, default=8, help="requests in flight at most (default 8)")
    parser.add_argument("--attempts", type=positive, default=6, help="how often a busy endpoint is asked (default 6)")
    parser.add_argument("--limit", type=positive, help="only the suite's first cases, with their variants")
    parser.add_argument("--families", help="adversarial families to add, separated by commas, or `all`")
    parser.add_argument("--seed", type=int, default=0, help="seed of the families (default 0)")
    add_variants(parser)
    add_limits(parser)


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """Whom to ask, and how long to wait."""
    parser.add_argument("--url", required=True, help="an OpenAI-compatible endpoint, Outrider's or another")
    parser.add_argument("--api-key", help="by default OUTRIDER_API_KEY or OPENAI_API_KEY of the environment")
    parser.add_argument("--model", help="by default the first that the endpoint lists")
    parser.add_argument(
        "--timeout", type=above_zero, default=300.0, help="seconds that one request may take (default 300)"
    )


def key_of(args: argparse.Namespace) -> str | None:
    """The key; better from the environment, since every process on the machine can read a command line."""
    return args.api_key or os.environ.get("OUTRIDER_API_KEY") or os.environ.get("OPENAI_API_KEY")


def add_variants(parser: argparse.ArgumentParser) -> None:
    """What is compared with the base, which is speculation off unless it is given."""
    parser.add_argument("--variants", type=Path, help="YAML file of variants by name")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=JSON", help="one variant; repeatable")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """What counts as no difference."""
    parser.add_argument("--margin", type=number, help="difference of mean scores that counts as none (default 0.02)")
    parser.add_argument("--near-tie", type=at_least_zero, help="lead in nats that rounding may turn (default 1e-4)")


def run(args: argparse.Namespace) -> int:
    """Answer, score, report; returns the exit status."""
    from evaluation.client import Patience, base_url
    from evaluation.load.report import describe_environment
    from evaluation.quality.loading import load_suite
    from evaluation.quality.runner import Plan, Runner, Settings, open_folder
    from evaluation.quality.variants import read_variants

    limits = limits_of(args)
    suite, left_out = prepared(load_suite(args.suite), args)
    folder = args.out or Path(f"eval-{suite.name}")
    plan = Plan(
        suite=suite.name,
        digest=suite.digest(),
        url=base_url(args.url),
        model=args.model,
        variants=read_variants(args.variants, args.variant),
        left_out=left_out,
    )
    settings = Settings(
        api_key=key_of(args),
        concurrency=args.concurrency,
        patience=Patience(timeout_s=args.timeout, num_attempts=args.attempts),
    )
    answers = open_folder(folder, plan, suite)
    try:
        with progress_bar(suite.name) as progress:
            asyncio.run(Runner(suite, plan, settings, answers).run(progress))
    except KeyboardInterrupt:
        said = f"stopped: {len(answers.answers)} answers are kept, and the same command goes on"
        print(f"outrider eval: {said}", file=sys.stderr)
        return 130
    return finish(folder, limits, describe_environment(own_command()))


def prepared(suite: DomainEvalSuite, args: argparse.Namespace) -> tuple[DomainEvalSuite, dict[str, int]]:
    """The cases that were asked for, and how many the families left out, by reason."""
    from evaluation.quality.adversarial import with_families

    if args.limit:
        kept = [case.id for case in suite.cases if case.family is None][: args.limit]
        cases = tuple(case for case in suite.cases if (case.variant_of or case.id) in kept)
        suite = msgspec.structs.replace(suite, cases=cases)
    return with_families(suite, args.families, args.seed) if args.families else (suite, {})


def finish(folder: Path, limits: Limits, environment: Mapping[str, str]) -> int:
    """Score the folder's answers, write the report and print it."""
    from evaluation.quality.results import evaluate
    from evaluation.report.writing import write_report

    evaluate(folder, environment, limits)
    return told(write_report(folder))


def told(files: tuple[Path, Path]) -> int:
    """Print a report's Markdown, and where it and the HTML file are."""
    print(files[0].read_text(encoding="utf-8"))
    print(f"written: {', '.join(str(file) for file in files)}", file=sys.stderr)
    return 0


def limits_of(args: argparse.Namespace) -> Limits:
    """What `add_limits` asked for."""
    from evaluation.quality.paired import MARGIN, NEAR_TIE_NATS
    from evaluation.quality.results import Limits

    margin = MARGIN if args.margin is None else args.margin
    if not 0 < margin < 1:
        raise ValueError(f"--margin {margin:g}: must lie between 0 and 1")
    return Limits(margin=margin, near_tie_nats=NEAR_TIE_NATS if args.near_tie is None else args.near_tie)


def own_command() -> str:
    """The command as it was given, without a key."""
    words = ["outrider", *sys.argv[1:]]
    for i, word in enumerate(words):
        if word == "--api-key" and i + 1 < len(words):
            words[i + 1] = "…"
        elif word.startswith("--api-key="):
            words[i] = "--api-key=…"
    return shlex.join(words)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal's error stream; gives what to call with the number done and of all."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda num_done, num_all: bar.update(task, completed=num_done, total=num_all)
