"""`python -m autoscaling.simulator.misclassified`: what a request loses that is taken for another class.

Every session of a run has one class and is told another; a line has the speed against that of sessions told right.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product

from autoscaling.simulator.run import Scenario, simulate
from deployments.messages import RequestClass
from deployments.policy.classes import REQUEST_CLASSES
from deployments.policy.hardware import pairs

Case = tuple[RequestClass, RequestClass, int]
"""(the text's class, what the router is told, sessions)."""


def speed(case: Case, pair: str, num_tokens: int) -> float:
    """Tokens per second; nothing was learnt before."""
    request_class, told, concurrency = case
    scenario = Scenario(
        pair=pairs()[pair],
        concurrency=concurrency,
        classes=(request_class,),
        told_class=told,
        num_tokens=max(num_tokens, 400 * concurrency),
        warm_up_tokens=0,
    )
    return simulate(scenario).tokens_per_s


def table(pair: str, concurrencies: list[int], num_tokens: int, num_jobs: int) -> Iterator[str]:
    """Markdown rows: by class and sessions, the speed when told each class, over that when told right."""
    yield "| text | sessions | " + " | ".join(f"told {name}" for name in REQUEST_CLASSES) + " |"
    yield "|---" * (2 + len(REQUEST_CLASSES)) + "|"
    cases = list(product(REQUEST_CLASSES, concurrencies, REQUEST_CLASSES))
    with ProcessPoolExecutor(num_jobs) as pool:
        found = pool.map(speed, [(one, told, n) for one, n, told in cases], *_same(pair, num_tokens, len(cases)))
        for request_class, concurrency in product(REQUEST_CLASSES, concurrencies):
            speeds = {told: next(found) for told in REQUEST_CLASSES}
            ratios = (f"{one / speeds[request_class]:.3f}" for one in speeds.values())
            yield f"| {request_class} | {concurrency} | " + " | ".join(ratios) + " |"


def _same(pair: str, num_tokens: int, count: int) -> tuple[list[str], list[int]]:
    return [pair] * count, [num_tokens] * count


def main() -> None:
    """Parse the arguments, print rows as they come."""
    parser = argparse.ArgumentParser(prog="python -m autoscaling.simulator.misclassified", description=__doc__)
    parser.add_argument("--pair", choices=[*pairs()], default="h100x2-l4-31b", help="hardware (%(default)s)")
    parser.add_argument("--concurrency", default="1,8,64", help="sessions, comma separated (%(default)s)")
    parser.add_argument("--tokens", type=int, default=8_000, help="tokens per run (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    args = parser.parse_args()
    for line in table(args.pair, [int(one) for one in args.concurrency.split(",")], args.tokens, args.jobs):
        print(line, flush=True)


if __name__ == "__main__":
    main()
