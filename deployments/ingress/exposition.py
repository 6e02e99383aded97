"""What all replicas measured, as Prometheus text: every metric as `outrider_…`, and as `vllm:…` where vLLM has it.

The second spelling lets existing dashboards and load tools read an Outrider as they read a vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as MetricFamily

from deployments.measures import CATALOGUE, PREFIX, Metric
from deployments.points import cumulative_buckets
from deployments.reporting import Totals, Values

CONTENT_TYPE = CONTENT_TYPE_LATEST
VLLM_PREFIX = "vllm:"


class Exposition:
    """A collector for prometheus_client over what `totals` gives; every series has the label model_name."""

    def __init__(self, model_name: str, totals: Callable[[], Totals]) -> None:
        self._model_name = model_name
        self._totals = totals
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """The exposition text, in CONTENT_TYPE."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[MetricFamily]:
        """The families, in the catalogue's order; one that no replica has reported is described and empty."""
        totals = self._totals()
        for metric in CATALOGUE.values():
            series = totals.get(metric.name, {})
            for prefix in (PREFIX, VLLM_PREFIX) if metric.is_vllm else (PREFIX,):
                yield self._family(prefix, metric, series)

    def _family(self, prefix: str, metric: Metric, series: dict[tuple[str, ...], Values]) -> MetricFamily:
        names, name = ("model_name", *metric.labels), prefix + metric.name
        if metric.kind == "histogram":
            histogram = HistogramMetricFamily(name, metric.text, labels=names)
            for labels, values in sorted(series.items()):
                histogram.add_metric((self._model_name, *labels), cumulative_buckets(metric, values), values[-1])
            return histogram
        make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        family = make(name, metric.text, labels=names)
        for labels, values in sorted(series.items()):
            family.add_metric((self._model_name, *labels), values[0])
        return family
