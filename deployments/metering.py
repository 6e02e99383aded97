"""What a process measures: cells that the hot path adds to, and samples of them that exporters read.

A cell is a Python number, so that counting costs no more than an attribute; nothing is locked. Who reads them
(the endpoint's /metrics, Ray's agent) does so about once a second, and never from the hot path.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from deployments.measures import Metric
from deployments.messages import Sample

MAX_SERIES = 512
"""Of one family: whoever invents labels fills one series, whose labels are all OTHER, and no memory."""
OTHER = "other"


class Counter:
    """A sum that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        """Count."""
        self.value += amount

    def values(self) -> tuple[float, ...]:
        """The sum."""
        return (self.value,)


class Gauge:
    """A value that comes and goes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def set(self, value: float) -> None:
        """Replace the value."""
        self.value = value

    def add(self, amount: float) -> None:
        """Change the value."""
        self.value += amount

    def values(self) -> tuple[float, ...]:
        """The value."""
        return (self.value,)


class Histogram:
    """How many observations lie in each bucket (above the bound before it, up to its own), and their sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float, times: int = 1) -> None:
        """Count an observation, or several of the same value."""
        self.counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    def values(self) -> tuple[float, ...]:
        """The counts, one per bound and one for what lies above all, then the sum."""
        return (*self.counts, self.sum)


class _Readable(Protocol):
    def values(self) -> tuple[float, ...]: ...


Cell = TypeVar("Cell", bound=_Readable)


class Family(Generic[Cell]):
    """The cells of one metric, by the values of its labels."""

    def __init__(self, metric: Metric, make: Callable[[], Cell]) -> None:
        self.metric = metric
        self._make = make
        self._cells: dict[tuple[str, ...], Cell] = {}
        if not metric.labels:
            self.cell()  # a zero that is exported says more than a series that is missing

    def cell(self, *labels: str) -> Cell:
        """The cell of these label values, in the order of the metric's labels."""
        found = self._cells.get(labels)
        return found if found is not None else self._new_cell(labels)

    def prepare(self, values: Iterable[str]) -> None:
        """Make the cells of the values that a metric's one label will have: what is rare is a zero until then."""
        for value in values:
            self.cell(value)

    def _new_cell(self, labels: tuple[str, ...]) -> Cell:
        assert len(labels) == len(self.metric.labels), f"{self.metric.name} has the labels {self.metric.labels}"
        if len(self._cells) >= MAX_SERIES:
            labels = (OTHER,) * len(labels)
        return self._cells.setdefault(labels, self._make())

    def samples(self) -> list[Sample]:
        """One sample per cell."""
        return [(self.metric.name, labels, cell.values()) for labels, cell in list(self._cells.items())]


class Meter:
    """The families of one process. Asking twice for a metric gives the same family."""

    def __init__(self) -> None:
        self._counters: dict[str, Family[Counter]] = {}
        self._gauges: dict[str, Family[Gauge]] = {}
        self._histograms: dict[str, Family[Histogram]] = {}
        self._before_reading: list[Callable[[], None]] = []

    def counter(self, metric: Metric) -> Family[Counter]:
        """The family of a counter."""
        assert metric.kind == "counter"
        return self._counters.setdefault(metric.name, Family(metric, Counter))

    def gauge(self, metric: Metric) -> Family[Gauge]:
        """The family of a gauge."""
        assert metric.kind == "gauge"
        return self._gauges.setdefault(metric.name, Family(metric, Gauge))

    def histogram(self, metric: Metric) -> Family[Histogram]:
        """The family of a histogram."""
        assert metric.kind == "histogram"
        return self._histograms.setdefault(metric.name, Family(metric, lambda: Histogram(metric.buckets)))

    def before_reading(self, refresh: Callable[[], None]) -> None:
        """Call this whenever the meter is about to be read: for gauges that would cost something to keep current."""
        self._before_reading.append(refresh)

    def samples(self) -> tuple[Sample, ...]:
        """Everything as it stands now."""
        for refresh in self._before_reading:
            refresh()
        families = (self._counters, self._gauges, self._histograms)
        return tuple(sample for kind in families for family in kind.values() for sample in family.samples())
