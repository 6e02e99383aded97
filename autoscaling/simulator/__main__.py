"""`python -m autoscaling.simulator`: a Markdown table of adaptive lookahead against every fixed one."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from autoscaling.simulator.sweep import MIXED, Row, classes_of, sweep
from deployments.policy.classes import REQUEST_CLASSES
from deployments.policy.hardware import pairs


def main() -> None:
    """Parse the arguments, run the cells, print rows as they come."""
    known = pairs()
    parser = argparse.ArgumentParser(prog="python -m autoscaling.simulator", description=__doc__)
    parser.add_argument("--pair", choices=[*known], action="append", help="hardware (all)")
    parser.add_argument("--concurrency", default="1,4,16,64,256", help="sessions, comma separated (%(default)s)")
    parser.add_argument("--request-class", choices=[*REQUEST_CLASSES, MIXED], action="append", help="texts (all)")
    parser.add_argument("--recorded", action="store_true", help="answers as recorded of the pocket pair, not profiles")
    parser.add_argument("--tokens", type=int, default=40_000, help="tokens per cell and policy (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the texts (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    args = parser.parse_args()
    rows = []
    columns = ("pair", "class", "sessions", "off", "best k", "its tokens/s", "auto", "mean lookahead", "auto / best")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    chosen = {name: known[name] for name in args.pair or known}
    concurrencies = [int(one) for one in args.concurrency.split(",")]
    classes = args.request_class or [*classes_of(MIXED, recorded=args.recorded), MIXED]
    if not all(classes_of(name, recorded=args.recorded) for name in classes):
        parser.error(f"--request-class: recorded are {', '.join(classes_of(MIXED, recorded=True))}")
    options = {"num_tokens": args.tokens, "num_jobs": args.jobs, "seed": args.seed, "recorded": args.recorded}
    for row in sweep(chosen, classes, concurrencies, **options):
        rows.append(row)
        print(_line(row), flush=True)
    print(
        f"\nleast adaptive / best: {min(row.ratio for row in rows):.3f}, least adaptive / off: "
        f"{min(row.over_off for row in rows):.3f}"
    )
    if args.out:
        args.out.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))


def _line(row: Row) -> str:
    return (
        f"| {row.pair} | {row.request_class} | {row.concurrency} | {row.fixed[0]:.0f} | {row.best} | "
        f"{row.fixed[row.best]:.0f} | {row.adaptive:.0f} | {row.mean_lookahead:.1f} | {row.ratio:.3f} |"
    )


if __name__ == "__main__":
    main()
