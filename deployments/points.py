"""Samples as plain numbers, one per series, for a metrics backend that takes those: Ray's.

Ray's own counters cannot tell a zero, and its histograms report the midpoints of their buckets as sums. So sums go out
as they stand, `…_total`, `…_bucket{le}`, `…_count` and `…_sum`, and are gauges by type, which PromQL does not ask for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from deployments.measures import CATALOGUE, PREFIX, Metric
from deployments.messages import Sample


class Point(NamedTuple):
    """One series as of now; sums are since the process started."""

    name: str
    text: str
    labels: tuple[tuple[str, str], ...]
    value: float


def to_points(samples: Iterable[Sample]) -> Iterator[Point]:
    """All the points of some samples."""
    for name, label_values, values in samples:
        metric = CATALOGUE[name]
        labels = tuple(zip(metric.labels, label_values, strict=True))
        full_name = PREFIX + name
        if metric.kind != "histogram":
            suffix = "_total" if metric.kind == "counter" else ""
            yield Point(full_name + suffix, metric.text, labels, values[0])
            continue
        buckets = cumulative_buckets(metric, values)
        for bound, count in buckets:
            yield Point(f"{full_name}_bucket", metric.text, (*labels, ("le", bound)), count)
        yield Point(f"{full_name}_count", metric.text, labels, buckets[-1][1])
        yield Point(f"{full_name}_sum", metric.text, labels, values[-1])


def cumulative_buckets(metric: Metric, values: tuple[float, ...]) -> list[tuple[str, float]]:
    """Prometheus' buckets of a histogram's values: (`le`, how many observations lie at or below it)."""
    bounds = [str(float(bound)) for bound in metric.buckets]
    return list(zip([*bounds, "+Inf"], accumulate(values[:-1]), strict=True))
