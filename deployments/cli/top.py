"""`outrider top`: what every role of a running endpoint does, drawn anew every few seconds."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from deployments.cli.arguments import number
from deployments.cli.top_figures import Line, Reading, sections
from evaluation.client import EndpointError, base_url, headers

_DEFAULT_URL = "http://127.0.0.1:8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=_DEFAULT_URL, help=f"the endpoint (default {_DEFAULT_URL})")
    parser.add_argument("--interval-s", type=_seconds, default=2.0, metavar="S", help="between readings (default 2)")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="an API key, where /metrics needs one")
    parser.add_argument("--once", action="store_true", help="print one picture, of one interval, and end")


def run(args: argparse.Namespace) -> int:
    """Draw until Ctrl-C; 0, or 1 if the endpoint cannot be read."""
    console = Console()
    try:
        key = args.key_file.read_text("utf-8").strip() if args.key_file else None
        readings = _readings(base_url(args.url), args.interval_s, headers(key))
        before = next(readings)
        if args.once or not console.is_terminal:  # what is no terminal gets one picture after another
            for after in readings:
                console.print(_picture(args.url, before, after))
                before = after
                if args.once:
                    return 0
        with Live(console=console, auto_refresh=False) as live:
            live.update(f"reading {args.url}", refresh=True)
            for after in readings:
                live.update(_picture(args.url, before, after), refresh=True)
                before = after
    except KeyboardInterrupt:
        return 0
    except (httpx.HTTPError, EndpointError, ValueError, OSError) as error:
        print(f"outrider top: {args.url} cannot be read: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _readings(url: str, interval_s: float, keyed: dict[str, str]) -> Iterator[Reading]:
    """One reading after another, an interval apart, without end."""
    with httpx.Client(timeout=10.0, headers=keyed) as client:
        while True:
            begun_s = time.monotonic()
            answer = client.get(f"{url}/metrics")
            answer.raise_for_status()
            yield Reading.parse(answer.text, begun_s)
            time.sleep(max(0.0, begun_s + interval_s - time.monotonic()))


def _picture(url: str, before: Reading, after: Reading) -> RenderableType:
    title = f"{url}  {time.strftime('%H:%M:%S')}, the last {after.at_s - before.at_s:.0f} s"
    return Columns([_table(name, lines) for name, lines in sections(before, after).items()], title=title)


def _table(name: str, lines: list[Line]) -> Table:
    table = Table(title=name, show_header=False, title_justify="left", min_width=28)
    table.add_column()
    table.add_column(justify="right")
    for line in lines:
        table.add_row(line.name, line.text)
    return table


def _seconds(text: str) -> float:
    seconds = number(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is no interval; choose 0.1 to 3600 seconds")
    return seconds
