"""What a report says first: is the quality unchanged?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from evaluation.quality.results import Against, Results


def conclusions(results: Results) -> Iterator[str]:
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
