"""Metrics through Ray's agents: what a replica reports becomes `ray_…` series on the metrics port of its node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ray.serve.metrics import Counter, Gauge


class Point(Protocol):
    """One series as of now; a counter's value is its sum so far."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def is_counter(self) -> bool: ...
    @property
    def labels(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def value(self) -> float: ...


class RayExporter:
    """Hands points to Ray, which adds the labels deployment, replica and application; one thread at a time.

    Ray's agent forgets a gauge that it has not heard of for two of its periods (10 s each), so export more often.
    """

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._counters: dict[str, Counter] = {}
        self._told: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def export(self, points: Iterable[Point]) -> None:
        """Set gauges, and increase counters by what was added since the last call."""
        for point in points:
            names = tuple(name for name, _ in point.labels)
            if not point.is_counter:
                gauge = self._gauges.get(point.name)
                if gauge is None:
                    gauge = self._gauges[point.name] = Gauge(point.name, point.text, names)  # type: ignore[arg-type]
                gauge.set(point.value, tags=dict(point.labels))
                continue
            counter = self._counters.get(point.name)
            if counter is None:
                counter = self._counters[point.name] = Counter(point.name, point.text, names)  # type: ignore[arg-type]
            key = (point.name, point.labels)
            if (added := point.value - self._told.get(key, 0.0)) > 0:
                counter.inc(added, tags=dict(point.labels))
                self._told[key] = point.value
