"""What a report says first: is the quality unchanged, for which class of text does speculation pay, where not?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from evaluation.load.throughput_records import Cell, Throughput
from evaluation.quality.results import Against, Results


def of_quality(results: Results) -> Iterator[str]:
    """One sentence per variant, and one for what was not answered."""
    for one in results.against:
        yield f"{one.variant} against base: {_verdicts(one)}; {_tokens(one)}."
    for variant, num_refused in results.num_refused.items():
        if num_refused:
            yield f"{variant}: the endpoint refused {num_refused} cases, which count as score 0."


def _verdicts(one: Against) -> str:
    by_verdict: dict[str, list[str]] = defaultdict(list)
    for found in one.comparisons:
        by_verdict[found.verdict].append(found.metric)
    return "; ".join(f"{verdict}: {', '.join(metrics)}" for verdict, metrics in by_verdict.items())


def _tokens(one: Against) -> str:
    if not one.partings:
        return "no answers to compare"
    kinds = [found.kind for found in one.partings]
    parts = [f"{kinds.count('identical')} of {len(kinds)} answers identical"]
    if num_ties := kinds.count("near-tie"):
        parts.append(f"{num_ties} part at a near-tie")
    if num_bugs := kinds.count("bug"):
        parts.append(f"{num_bugs} part where the base has a clear lead, which is a bug")
    return ", ".join(parts)


def of_throughput(found: Throughput) -> Iterator[str]:
    """Per variant: where every repeat was faster than the base, where every one was slower, and the rest."""
    by_variant: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for cell in found.cells:
        if cell.speed_up is not None:
            by_variant[cell.variant][_payoff(cell)].append(
                f"{cell.task_class} at {cell.num_streams} ({cell.speed_up.median:.2f}x)"
            )
    for variant, by_payoff in by_variant.items():
        parts = [f"{payoff}: {', '.join(by_payoff[payoff])}" for payoff in PAYOFFS if by_payoff[payoff]]
        yield f"Speed of {variant} over base, by class and streams: {'; '.join(parts)}."


PAYOFFS = ("pays", "does not pay", "unclear")


def _payoff(cell: Cell) -> str:
    assert cell.speed_up is not None
    return "pays" if cell.speed_up.low > 1 else "does not pay" if cell.speed_up.high < 1 else "unclear"
