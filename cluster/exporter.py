"""Metrics through Ray's agents: what a replica reports becomes `ray_…` series on the metrics port of its node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ray.serve.metrics import Gauge


class Point(Protocol):
    """One series as of now."""

    @property
    def name(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def labels(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def value(self) -> float: ...


class RayExporter:
    """Hands points to Ray, which adds the labels deployment, replica and application; one thread at a time.

    Ray's agent forgets a gauge that it has not heard of for two of its periods (10 s each): export more often.
    """

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}

    def export(self, points: Iterable[Point]) -> None:
        """Set every series to its present value."""
        for point in points:
            gauge = self._gauges.get(point.name)
            if gauge is None:
                names = tuple(name for name, _ in point.labels)
                gauge = self._gauges[point.name] = Gauge(point.name, point.text, names)  # type: ignore[arg-type]
            gauge.set(point.value, tags=dict(point.labels))
