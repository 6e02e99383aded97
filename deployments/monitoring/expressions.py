"""PromQL over the catalogue: a metric that does not exist, or a label that it does not have, is an error here.

Dashboards read what Ray's agents export, one series per replica; APPLICATION and WINDOW are filled in where an
expression is used.
"""

from __future__ import annotations

from deployments.measures import PREFIX, Metric

RAY_PREFIX = "ray_" + PREFIX
APPLICATION = "$application"
WINDOW = "$__rate_interval"
_OF_ALL = {"application", "deployment", "replica", "le"}


def series(metric: Metric, suffix: str = "", **matchers: str) -> str:
    """A selector; matchers are regular expressions by label."""
    for label in matchers:
        assert label in metric.labels or label in _OF_ALL, f"{metric.name} has no label {label}"
    suffix = "_total" if metric.kind == "counter" else suffix
    assert metric.kind != "histogram" or suffix in ("_bucket", "_count", "_sum")
    chosen = {"application": APPLICATION, **matchers}
    inner = ",".join(f'{label}=~"{value}"' for label, value in chosen.items())
    return f"{RAY_PREFIX}{metric.name}{suffix}{{{inner}}}"


def rate(metric: Metric, *by: str, suffix: str = "", **matchers: str) -> str:
    """The growth per second of a counter (or a histogram's count or sum), added up over replicas."""
    assert metric.kind != "gauge"
    return f"sum{_by(metric, by)} (rate({series(metric, suffix, **matchers)}[{WINDOW}]))"


def quantile(share: float, metric: Metric, *by: str) -> str:
    """A quantile of a histogram over all replicas."""
    return f"histogram_quantile({share}, sum{_by(metric, (*by, 'le'))} (rate({series(metric, '_bucket')}[{WINDOW}])))"


def mean(metric: Metric, *by: str) -> str:
    """The exact mean of a histogram's observations."""
    return f"{rate(metric, *by, suffix='_sum')} / {rate(metric, *by, suffix='_count')}"


def busy_share(metric: Metric) -> str:
    """By replica, the share of the time that it spent in what the histogram measures."""
    return f"sum by (replica) (rate({series(metric, '_sum')}[{WINDOW}]))"


def combined(how: str, metric: Metric, *by: str, **matchers: str) -> str:
    """A gauge over all replicas: `how` is sum, max or min."""
    assert metric.kind == "gauge"
    return f"{how}{_by(metric, by)} ({series(metric, **matchers)})"


def _by(metric: Metric, by: tuple[str, ...]) -> str:
    for label in by:
        assert label in metric.labels or label in _OF_ALL, f"{metric.name} has no label {label}"
    return f" by ({', '.join(by)})" if by else ""


def filled(expression: str, application: str = ".*", window: str = "5m") -> str:
    """The expression for Prometheus itself, which knows no variables."""
    return expression.replace(APPLICATION, application).replace(WINDOW, window)
