"""Remote against colocated drafters at equal cost: `python -m evaluation.load.placements`, in virtual time.

    remote     V verifiers and D drafters of the pair's hardware                cost: V verifiers + D drafters
    colocated  as many verifiers as the same money buys, each drafting itself   the same sessions over more of them
    off        the same verifiers, nobody drafts

All three have the same sessions and the same texts. The money of a part of a verifier counts: what a large fleet would
buy is divided by its size, and a verifier's speed is a straight line between whole numbers of sessions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import msgspec
from msgspec.structs import replace

from autoscaling.simulator.run import Scenario, simulate
from autoscaling.simulator.sweep import MIXED, classes_of
from deployments.policy.classes import REQUEST_CLASSES
from deployments.policy.hardware import DraftTable, pairs

RATIOS = (Fraction(1, 2), Fraction(1), Fraction(2))
"""Drafters to a verifier that are tried."""
_LEAST_TOKENS, _TOKENS_PER_SESSION = 6_000, 100


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """What a pair is made of, by GPU, and what a draft takes on the verifier's own."""

    verifier: dict[str, int]
    drafter: dict[str, int]
    colocated_draft: DraftTable
    source: str


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """Dollars an hour by GPU, and the placements of named pairs (placements.json)."""

    prices_source: str
    usd_per_hour: dict[str, float]
    placements: dict[str, Placement]

    def cost(self, gpus: dict[str, int]) -> float:
        """Dollars an hour."""
        return sum(count * self.usd_per_hour[gpu] for gpu, count in gpus.items())


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One cell: `sessions` to a verifier of the remote deployment; tokens/s per verifier of that, at equal cost.

    `drafters` to a verifier is the remote deployment's best ratio, `usd_per_million` its cost of a million tokens.
    """

    pair: str
    request_class: str
    sessions: int
    drafters: float
    off: float
    remote: float
    colocated: float
    usd_per_million: float

    @property
    def ratio(self) -> float:
        """Remote over colocated."""
        return self.remote / self.colocated


def read() -> Prices:
    """The data file."""
    return msgspec.json.decode(files("evaluation.load").joinpath("placements.json").read_bytes(), type=Prices)


def measure(pair_name: str, request_class: str, sessions: int) -> Row:
    """One cell: the remote deployment at its best ratio, and what its money buys otherwise."""
    prices, pair = read(), pairs()[pair_name]
    placement = prices.placements[pair_name]
    verifier, drafter = prices.cost(placement.verifier), prices.cost(placement.drafter)
    base = Scenario(pair=pair, concurrency=1, classes=classes_of(request_class))
    speeds = {ratio: remote(base, sessions, ratio) for ratio in RATIOS}
    costs = {ratio: verifier + float(ratio) * drafter for ratio in RATIOS}
    best = max(RATIOS, key=lambda ratio: speeds[ratio] / costs[ratio])
    # Verifiers that the same money buys, for each one of the remote deployment.
    count = costs[best] / verifier
    return Row(
        pair=pair_name,
        request_class=request_class,
        sessions=sessions,
        drafters=float(best),
        off=count * between(replace(base, lookahead=0), sessions / count),
        remote=speeds[best],
        colocated=count * between(replace(base, colocated=placement.colocated_draft), sessions / count),
        usd_per_million=costs[best] * 1e6 / 3600 / speeds[best],
    )


def remote(base: Scenario, sessions: int, ratio: Fraction) -> float:
    """Tokens/s per verifier with so many drafters to each."""
    verifiers, drafters = ratio.denominator, ratio.numerator
    scenario = replace(base, num_verifiers=verifiers, num_drafters=drafters)
    return speed(scenario, sessions * verifiers) / verifiers


def between(base: Scenario, sessions: float) -> float:
    """Tokens/s of one verifier with so many sessions on average; none make none."""
    below = int(sessions)
    low = speed(base, below) if below else 0.0
    return low if sessions == below else low + (sessions - below) * (speed(base, below + 1) - low)


def speed(base: Scenario, concurrency: int) -> float:
    """Tokens/s of a scenario with so many sessions."""
    num_tokens = max(_LEAST_TOKENS, _TOKENS_PER_SESSION * concurrency)
    return simulate(
        replace(base, concurrency=concurrency, num_tokens=num_tokens, warm_up_tokens=num_tokens)
    ).tokens_per_s


def sweep(names: Sequence[str], classes: Sequence[str], sessions: Sequence[int], num_jobs: int) -> Iterable[Row]:
    """All cells, in order, as they come."""
    cells = [(name, one, count) for name in names for one in classes for count in sessions]
    with ProcessPoolExecutor(num_jobs) as pool:
        yield from pool.map(measure, *zip(*cells, strict=True))


def main() -> None:
    """Parse the arguments, run the cells, print rows as they come."""
    known = read()
    parser = argparse.ArgumentParser(prog="python -m evaluation.load.placements", description=__doc__)
    parser.add_argument("--pair", choices=[*known.placements], action="append", help="hardware (all)")
    parser.add_argument("--sessions", default="1,8,32,128", help="to a remote verifier, comma separated (%(default)s)")
    parser.add_argument(
        "--request-class", choices=[*REQUEST_CLASSES, MIXED], action="append", help="(structured, prose)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    args = parser.parse_args()
    columns = (
        "pair",
        "class",
        "sessions",
        "drafters",
        "off",
        "remote",
        "colocated",
        "remote / colocated",
        "USD per million",
    )
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    rows = []
    names, classes = args.pair or [*known.placements], args.request_class or ["structured", "prose"]
    for row in sweep(names, classes, [int(one) for one in args.sessions.split(",")], args.jobs):
        rows.append(row)
        print(_line(row), flush=True)
    print(f"\nTokens/s per verifier of the remote deployment, at its cost. {known.prices_source}.")
    if args.out:
        args.out.write_text(json.dumps([msgspec.to_builtins(row) for row in rows], indent=1) + "\n")


def _line(row: Row) -> str:
    return (
        f"| {row.pair} | {row.request_class} | {row.sessions} | {row.drafters:g} | {row.off:.0f} | {row.remote:.0f} | "
        f"{row.colocated:.0f} | {row.ratio:.2f} | {row.usd_per_million:.2f} |"
    )


if __name__ == "__main__":
    main()
