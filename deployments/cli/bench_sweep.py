"""`outrider bench sweep`: every lookahead over loads and kinds of text, and auto against the best of them."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from deployments.cli.arguments import above_zero, count, exit_on_signal, positive, positives
from deployments.policy.hardware import pairs
from evaluation.load.sweep import FULL, INTERRUPTED, MAX_QUICK_CELLS, QUICK, VIRTUAL, Sweep, SweepPlan, SweepResults
from evaluation.load.sweep_records import SWEEP_CLASSES, Load, Lookahead, Row

HELP = "measure an endpoint over lookaheads, loads and kinds of text; auto against the best fixed lookahead"
_KEY_VARIABLE = "OUTRIDER_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="an endpoint that is running; by default one is started and stopped here")
    parser.add_argument("--api-key", help=f"for that endpoint; better in {_KEY_VARIABLE}, as command lines are public")
    parser.add_argument("--config", type=Path, help="configuration of the endpoint that is started here")
    parser.add_argument("--pair", choices=[*pairs()], help="start one whose steps last as on this hardware")
    parser.add_argument("--virtual", action="store_true", help="no endpoint: the policies on --pair, in virtual time")
    parser.add_argument("--quick", action="store_true", help="at most 20 cells, at most ten minutes in all")
    parser.add_argument("--concurrency", type=_counts, help="streams of a closed loop, such as 1,4,16")
    parser.add_argument("--rate", type=_rates, help="Poisson arrivals instead, requests per second, such as 0.5,2")
    parser.add_argument("--lookaheads", type=_lookaheads, help="such as 0,1,2,4,auto (default: 0 to 8, and auto)")
    parser.add_argument("--classes", type=_classes, help=f"of {','.join(SWEEP_CLASSES)} (default: all)")
    parser.add_argument("--max-tokens", type=positive, help="bound on each answer")
    parser.add_argument("--seconds", type=above_zero, help="length of one window")
    parser.add_argument("--warm-up", type=above_zero, help="seconds of load before each window")
    parser.add_argument("--budget", type=above_zero, help="seconds for everything; what is measured by then stays")
    parser.add_argument("--repeats", type=count, help="runs of auto beside the best fixed lookahead; 0 for none")
    parser.add_argument("--slo-ttft-ms", type=above_zero, help="what goodput asks of a first token (default 500)")
    parser.add_argument("--slo-tpot-ms", type=above_zero, help="what goodput asks of the tokens after it (default 50)")
    parser.add_argument("--out", type=Path, help="folder for results.json and frontier.png")
    parser.add_argument("--no-plot", action="store_true", help="without the picture, which needs matplotlib")


def run(args: argparse.Namespace) -> int:
    """Sweep, print tables, and return the exit status; 130 after Ctrl-C, with what was measured by then."""
    from evaluation.client import EndpointError
    from evaluation.load.server import ServerError
    from evaluation.load.sweep_plot import PlotError

    # A server may be started here: it must be stopped on a plain `kill`, too.
    signal.signal(signal.SIGTERM, exit_on_signal)
    try:
        return _sweep(args, plan_of(args), time.monotonic())
    except (EndpointError, ServerError, PlotError, ValueError, OSError) as error:
        print(f"outrider bench sweep: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def plan_of(args: argparse.Namespace) -> SweepPlan:
    """The plan that the arguments ask for; ValueError if they do not go together."""
    plan = VIRTUAL if args.virtual else QUICK if args.quick else FULL
    _check_places(args)
    if args.concurrency and args.rate:
        raise ValueError("--concurrency is a closed loop and --rate is none: give one of them")
    budget_s = plan.budget_s if args.budget is None else args.budget
    if args.quick and budget_s > QUICK.budget_s:
        raise ValueError(f"--quick takes at most --budget {QUICK.budget_s:.0f}: leave one of them out")
    loads = [Load(concurrency=one) for one in args.concurrency or ()] + [Load(rate=one) for one in args.rate or ()]
    timing, slo = plan.timing, plan.slo
    plan = replace(
        plan,
        lookaheads=args.lookaheads or plan.lookaheads,
        loads=tuple(loads) or plan.loads,
        classes=args.classes or plan.classes,
        max_tokens=args.max_tokens or plan.max_tokens,
        timing=replace(timing, window_s=args.seconds or timing.window_s, warm_up_s=args.warm_up or timing.warm_up_s),
        num_repeats=plan.num_repeats if args.repeats is None else args.repeats,
        budget_s=budget_s,
        slo=replace(slo, ttft_ms=args.slo_ttft_ms or slo.ttft_ms, tpot_ms=args.slo_tpot_ms or slo.tpot_ms),
    )
    if args.quick and plan.num_cells > MAX_QUICK_CELLS:
        raise ValueError(f"--quick measures at most {MAX_QUICK_CELLS} cells, these are {plan.num_cells}: ask for fewer")
    return plan


def _check_places(args: argparse.Namespace) -> None:
    """ValueError if the arguments say two things of where to measure."""
    if args.url and (args.config or args.pair):
        other = "--config" if args.config else "--pair"
        raise ValueError(f"{other} is for an endpoint that is started here: leave it or --url out")
    if args.config and args.pair:
        raise ValueError("--pair has a configuration of its own: leave it or --config out")
    if args.virtual and not args.pair:
        raise ValueError("--virtual needs the cost tables of a --pair")
    if args.virtual and (args.quick or args.seconds or args.warm_up):
        raise ValueError("--virtual has neither --quick nor --seconds nor --warm-up: its cells last by tokens")


def _sweep(args: argparse.Namespace, plan: SweepPlan, started_s: float) -> int:
    from evaluation.load.report import describe_environment
    from evaluation.load.sweep_paced import describe_pair
    from evaluation.load.sweep_plot import check_plotting, draw_frontier
    from evaluation.load.sweep_report import PICTURE_FILE, to_json, to_markdown, write

    has_picture = args.out is not None and not args.no_plot
    if has_picture:
        check_plotting()
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    environment = describe_environment(_command(sys.argv[1:]))
    if args.pair is not None:
        environment["hardware"] = describe_pair(args.pair, is_virtual=args.virtual)

    def keep(results: SweepResults) -> None:
        if args.out is not None:
            write(args.out, to_json(results, plan, environment))

    with _measuring(args, plan, environment) as (sweep, bar):
        sweep.keep, sweep.watcher, sweep.deadline_s = keep, bar, started_s + plan.budget_s
        results = sweep.run()
    keep(results)
    print(to_markdown(results, environment))
    if has_picture and results.rows:
        draw_frontier(results.rows, args.out / PICTURE_FILE, environment.get("hardware", ""))
    if results.has_failed:
        print(f"outrider bench sweep: {results.why_short}", file=sys.stderr)
        return 1
    return 130 if results.why_short == INTERRUPTED else 0


@contextmanager
def _measuring(args: argparse.Namespace, plan: SweepPlan, environment: dict[str, Any]) -> Iterator[tuple[Sweep, _Bar]]:
    """The sweep and its bar, while what it measures is there; then adds to `environment` what it tells of its times."""
    from evaluation.client import headers
    from evaluation.load.endpoint import Served, served_model
    from evaluation.load.sweep_client import Target
    from evaluation.load.sweep_paced import kept_time
    from evaluation.load.sweep_virtual import VirtualPair, texts
    from evaluation.pocket.prompts import held_out

    console = Console(stderr=True)
    if args.virtual:
        virtual = VirtualPair(pairs()[args.pair], plan.max_tokens)
        target = Target("", Served(args.pair), plan.max_tokens, {})
        with _bar(console, plan.num_runs) as bar:
            yield Sweep(target=target, plan=plan, prompts=texts, measure=virtual.measure), bar
        return
    key = args.api_key or os.environ.get(_KEY_VARIABLE)
    keyed = headers(key)
    with _endpoint(args, console, plan.budget_s) as url, _bar(console, plan.num_runs) as bar:
        target = Target(url, served_model(url, keyed), plan.max_tokens, keyed)
        yield Sweep(target=target, plan=plan, prompts=held_out), bar
        environment |= kept_time(url)


class _Bar:
    """The sweep's watcher: a progress bar, and a line per run."""

    def __init__(self, progress: Progress, num_runs: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=num_runs)

    def begins(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def ends(self, row: Row) -> None:
        load = f"x{row.concurrency}" if row.request_rate is None else f"{row.request_rate:g}/s"
        speed = f"{row.output_tokens_per_s:.0f} tokens/s"
        self._progress.console.print(f"{row.request_class} {load}, lookahead {row.lookahead}: {speed}", highlight=False)
        self._progress.advance(self._task)


@contextmanager
def _bar(console: Console, num_runs: int) -> Iterator[_Bar]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield _Bar(progress, num_runs)


@contextmanager
def _endpoint(args: argparse.Namespace, console: Console, budget_s: float) -> Iterator[str]:
    """The address given, or that of a server for the length of the sweep."""
    from evaluation.client import base_url
    from evaluation.load.server import READY_TIMEOUT_S, running_server
    from evaluation.load.sweep_paced import config_for

    if args.url is not None:
        yield base_url(args.url)
        return
    console.print("starting `outrider serve`; Ctrl-C stops it again, which may take a while")
    with tempfile.TemporaryDirectory(prefix="outrider-sweep-") as folder:
        config = args.config
        if args.pair is not None:
            config = Path(folder) / "sweep.yaml"
            config.write_text(config_for(args.pair))
        with running_server(config, min(READY_TIMEOUT_S, budget_s)) as url:
            yield url
            console.print("stopping the server")


def _command(arguments: Sequence[str]) -> str:
    """The command line without the key in it."""
    shown = list(arguments)
    for index, argument in enumerate(shown):
        if argument == "--api-key" and index + 1 < len(shown):
            shown[index + 1] = "…"
        elif argument.startswith("--api-key="):
            shown[index] = "--api-key=…"
    return shlex.join(["outrider", *shown])


def _counts(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(positives(text)))


def _rates(text: str) -> tuple[float, ...]:
    return tuple(dict.fromkeys(above_zero(part) for part in text.split(",")))


def _lookaheads(text: str) -> tuple[Lookahead, ...]:
    found: list[Lookahead] = []
    for part in text.split(","):
        if part != "auto" and not (part.isascii() and part.isdigit()):
            raise argparse.ArgumentTypeError(f"a lookahead is a number or auto, not {part!r}")
        found.append("auto" if part == "auto" else int(part))
    return tuple(dict.fromkeys(found))


def _classes(text: str) -> tuple[str, ...]:
    asked = tuple(dict.fromkeys(text.split(",")))
    for name in asked:
        if name not in SWEEP_CLASSES:
            raise argparse.ArgumentTypeError(f"there is no {name!r}: use {', '.join(SWEEP_CLASSES)}")
    return asked
