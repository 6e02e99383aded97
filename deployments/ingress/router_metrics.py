"""What the routers say of themselves, as metric families: sums over the routers one ingress is linked to.

Every ingress exports the same routers, so take the maximum over ingress replicas, not the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

from deployments.messages import RouterStatus

Combine = Callable[[Collection[float]], float]
_GAUGES: tuple[tuple[str, str, str, Combine], ...] = (
    ("num_verifiers", "num_verifiers", "Verifiers that the routers are linked to, at least.", min),
    ("num_drafters", "num_drafters", "Drafters that the routers are linked to, at least.", min),
    ("router_num_sessions", "num_sessions", "Requests that the routers have under way.", sum),
    ("router_num_sessions_waiting", "num_waiting", "Requests that wait for a verifier or for room on it.", sum),
    ("kv_cache_usage_perc", "kv_usage", "Share of the fullest verifier's KV cache that is reserved, 0 to 1.", max),
)


class RouterFamilies:
    """A collector for prometheus_client; `statuses` gives each linked router's last word."""

    def __init__(self, model_name: str, statuses: Callable[[], Collection[RouterStatus]]) -> None:
        self._model_name = model_name
        self._statuses = statuses

    def collect(self) -> Iterator[Metric]:
        """The families, with zeros while there is no router."""
        statuses = list(self._statuses())
        label = [self._model_name]
        for name, field, text, combine in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["model_name"])
            values: list[float] = [getattr(status, field) for status in statuses]
            gauge.add_metric(label, float(combine(values)) if values else 0.0)
            yield gauge
        rounds = SummaryMetricFamily(
            "round_seconds", "Rounds that had a proposal, from verdict to verdict at the router.", labels=["model_name"]
        )
        rounds.add_metric(
            label, sum(s.num_rounds for s in statuses), sum_value=sum(s.round_seconds_sum for s in statuses)
        )
        yield rounds
        for name, text, total in (
            (
                "verify_step_seconds_sum",
                "Of these rounds, the verifier's step.",
                sum(s.verify_seconds_sum for s in statuses),
            ),
            ("draft_seconds_sum", "Of these rounds, the drafter's batch.", sum(s.draft_seconds_sum for s in statuses)),
        ):
            counter = CounterMetricFamily(name, text, labels=["model_name"])
            counter.add_metric(label, total)
            yield counter
