"""A session that writes prose, then JSON, then prose again: `python -m evaluation.load.phases --out phases.png`

plots its lookahead against time in virtual time, beside each phase's best fixed lookahead, and counts over many texts
how many rounds pass until it is within one of that.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from autoscaling.simulator.phases import Phased, Round
from autoscaling.simulator.run import Scenario, simulate
from deployments.messages import RequestClass
from deployments.policy.classes import REQUEST_CLASSES
from deployments.policy.hardware import Pair, pairs
from evaluation.load.sweep_plot import check_plotting

INNER: RequestClass = "structured"
NUM_PHASES = 3
PHASE_TOKENS, MAX_ROUNDS, TAIL_TOKENS = 150, 6, 20
"""A text's last tokens are left out: there is less left to draft than pays."""
_CALIBRATION_TOKENS = 8_000
FIRST_SEED = 1_000


@dataclass(frozen=True, slots=True)
class Followed:
    """One text: its rounds, and for each phase how many of them passed until one was within one of the best."""

    rounds: list[Round]
    num_rounds: tuple[int | None, ...]


def best_fixed(pair: Pair, request_class: RequestClass) -> int:
    """The fixed lookahead that makes the most tokens of a class at one session."""
    speeds = {
        lookahead: simulate(
            Scenario(
                pair=pair,
                concurrency=1,
                classes=(request_class,),
                lookahead=lookahead,
                num_tokens=_CALIBRATION_TOKENS,
                jitter=0.02,
            )
        ).tokens_per_s
        for lookahead in range(9)
    }
    return max(speeds, key=speeds.__getitem__)


def in_phase(rounds: Sequence[Round], index: int) -> list[Round]:
    """The rounds of one phase."""
    start = index * PHASE_TOKENS
    stop = start + PHASE_TOKENS - (TAIL_TOKENS if index == NUM_PHASES - 1 else 0)
    return [one for one in rounds if start <= one.position < stop]


def rounds_until(rounds: Sequence[Round], best: int) -> int | None:
    """The first round, counted from 1, whose lookahead is within one of the best; None if none is."""
    return next((number for number, one in enumerate(rounds, 1) if abs(one.lookahead - best) <= 1), None)


def kinds_of(outer: RequestClass) -> tuple[RequestClass, ...]:
    """The phases' classes."""
    return (outer, INNER, outer)


def follow(pair: Pair, outer: RequestClass, best: dict[RequestClass, int], num_texts: int) -> list[Followed]:
    """Sessions one after another on a router that has served both kinds before, and is told the first one."""
    kinds = kinds_of(outer)
    served = Phased(pair, (outer, INNER))
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + num_texts):
        rounds = served.run([(PHASE_TOKENS, kind) for kind in kinds], outer, seed)
        counts = tuple(rounds_until(in_phase(rounds, i), best[kind]) for i, kind in enumerate(kinds))
        found.append(Followed(rounds, counts))
    return found


def table(found: Sequence[Followed], outer: RequestClass, best: dict[RequestClass, int]) -> str:
    """How many rounds each phase took, as Markdown."""
    lines = [
        f"| phase | best fixed | rounds to within one of it, median | most | at most {MAX_ROUNDS}, of {len(found)} |",
        "|---|---|---|---|---|",
    ]
    for index, kind in enumerate(kinds_of(outer)):
        counts = [one.num_rounds[index] for one in found]
        known = [count for count in counts if count is not None]
        within = sum(count <= MAX_ROUNDS for count in known)
        most = "never" if len(known) < len(counts) else str(max(known))
        middle = f"{median(known):g}" if known else "-"
        lines.append(f"| {index + 1}: {kind} | {best[kind]} | {middle} | {most} | {within} |")
    return "\n".join(lines)


def draw(found: Sequence[Followed], outer: RequestClass, best: dict[RequestClass, int], title: str, path: Path) -> None:
    """Write a PNG: three texts, their lookahead by time, and each phase's best with one either way. PlotError."""
    check_plotting()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = found[:3]
    figure = Figure(figsize=(10, 2.6 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, one in enumerate(shown):
        axes = figure.add_subplot(len(shown), 1, row + 1)
        times = [at.time_ms / 1e3 for at in one.rounds]
        ends = [in_phase(one.rounds, index)[-1].time_ms / 1e3 for index in range(NUM_PHASES)]
        for start_s, end_s, kind in zip([0.0, *ends[:-1]], ends, kinds_of(outer), strict=True):
            axes.fill_between([start_s, end_s], best[kind] - 1, best[kind] + 1, alpha=0.2, color="tab:green")
            axes.hlines(best[kind], start_s, end_s, color="tab:green", linestyle="--")
            axes.axvline(end_s, color="grey", linewidth=0.8)
            axes.text((start_s + end_s) / 2, 8.6, kind, ha="center")
        axes.step(times, [at.lookahead for at in one.rounds], where="post", color="black")
        axes.set_ylim(0, 9.5)
        axes.set_ylabel("lookahead")
    axes.set_xlabel("seconds of virtual time; green: the phase's best fixed lookahead, one either way")
    figure.suptitle(title)
    figure.savefig(path, format="png", dpi=110)


def main() -> None:
    """Calibrate, follow, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.load.phases", description=__doc__)
    parser.add_argument("--pair", choices=[*pairs()], default="h100x2-l4-31b", help="hardware (%(default)s)")
    parser.add_argument("--outer", choices=REQUEST_CLASSES, default="prose", help="first and last kind (%(default)s)")
    parser.add_argument("--texts", type=int, default=30, help="sessions (%(default)s)")
    parser.add_argument("--out", type=Path, help="a PNG of the first three")
    args = parser.parse_args()
    if args.out is not None:
        check_plotting()
    pair = pairs()[args.pair]
    best = {kind: best_fixed(pair, kind) for kind in dict.fromkeys(kinds_of(args.outer))}
    found = follow(pair, args.outer, best, args.texts)
    print(table(found, args.outer, best))
    if args.out is not None:
        title = f"{args.pair}, virtual time: {', '.join(kinds_of(args.outer))}; the router is told {args.outer}"
        draw(found, args.outer, best, title, args.out)


if __name__ == "__main__":
    main()
