"""Samples as the plain numbers that a metrics backend without cumulative histograms takes: one point per series.

Ray's own histograms would report the midpoints of their buckets as sums. So a histogram goes out as what Prometheus
makes of it anyway, `…_bucket{le}`, `…_count` and `…_sum`, as gauges: PromQL's functions do not ask for the type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from deployments.measures import CATALOGUE, PREFIX, Metric
from deployments.messages import Sample


class Point(NamedTuple):
    """One series as of now. A counter's value is its sum since the process started, and has no `_total` in its name."""

    name: str
    text: str
    is_counter: bool
    labels: tuple[tuple[str, str], ...]
    value: float


def to_points(samples: Iterable[Sample]) -> Iterator[Point]:
    """All the points of some samples."""
    for name, label_values, values in samples:
        metric = CATALOGUE[name]
        labels = tuple(zip(metric.labels, label_values, strict=True))
        full_name = PREFIX + name
        if metric.kind != "histogram":
            yield Point(full_name, metric.text, metric.kind == "counter", labels, values[0])
            continue
        buckets = cumulative_buckets(metric, values)
        for bound, count in buckets:
            yield Point(f"{full_name}_bucket", metric.text, False, (*labels, ("le", bound)), count)
        yield Point(f"{full_name}_count", metric.text, False, labels, buckets[-1][1])
        yield Point(f"{full_name}_sum", metric.text, False, labels, values[-1])


def cumulative_buckets(metric: Metric, values: tuple[float, ...]) -> list[tuple[str, float]]:
    """Prometheus' buckets of a histogram's values: (`le`, how many observations lie at or below it)."""
    bounds = [str(float(bound)) for bound in metric.buckets]
    return list(zip([*bounds, "+Inf"], accumulate(values[:-1]), strict=True))
