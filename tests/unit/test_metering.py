"""Cells, families and their samples, and the points that a backend without histograms gets."""

from __future__ import annotations

import pytest

from deployments import measures
from deployments.measures import CATALOGUE
from deployments.metering import MAX_SERIES, OTHER, Meter
from deployments.points import to_points


def test_counters_and_gauges_are_read_as_they_stand() -> None:
    meter = Meter()
    meter.counter(measures.REQUEST_FAILURE).cell("429").add()
    meter.counter(measures.REQUEST_FAILURE).cell("429").add(2)
    meter.gauge(measures.RUNNING).cell().add(5)
    meter.gauge(measures.RUNNING).cell().add(-2)
    assert {name: (labels, values) for name, labels, values in meter.samples()} == {
        "request_failure": (("429",), (3,)),
        "num_requests_running": ((), (3,)),
    }


def test_an_observation_lies_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    meter = Meter()
    lookahead = meter.histogram(measures.LOOKAHEAD).cell("code")
    for value in (0, 1, 1, 7, 100):
        lookahead.observe(value)
    lookahead.observe(4, times=3)
    ((_, _, values),) = meter.samples()
    counts = dict(zip((*measures.LOOKAHEAD.buckets, "above"), values, strict=False))
    assert {bound: count for bound, count in counts.items() if count} == {0: 1, 1: 2, 4: 3, 8: 1, "above": 1}
    assert values[-1] == 0 + 1 + 1 + 7 + 100 + 12


def test_a_metric_without_labels_is_there_before_anything_is_counted() -> None:
    meter = Meter()
    meter.counter(measures.PROPOSAL_MISSES)
    meter.counter(measures.REFUSALS)
    assert meter.samples() == (("proposal_misses", (), (0,)),)


def test_invented_labels_end_in_one_series() -> None:
    meter = Meter()
    for number in range(MAX_SERIES + 50):
        meter.counter(measures.REQUEST_FAILURE).cell(str(number)).add()
    samples = meter.samples()
    assert len(samples) == MAX_SERIES + 1
    assert samples[-1] == ("request_failure", (OTHER,), (50,))


def test_wrong_labels_are_a_mistake_of_the_programmer() -> None:
    with pytest.raises(AssertionError, match="request_failure has the labels"):
        Meter().counter(measures.REQUEST_FAILURE).cell()


def test_gauges_can_be_set_when_they_are_read() -> None:
    meter = Meter()
    waiting = meter.gauge(measures.WAITING).cell()
    meter.before_reading(lambda: waiting.set(7))
    assert meter.samples() == (("num_requests_waiting", (), (7,)),)


def test_points_of_a_histogram_are_cumulative_and_have_the_exact_sum() -> None:
    meter = Meter()
    for seconds in (0.004, 0.0301, 9.0):
        meter.histogram(measures.STEP_SECONDS).cell().observe(seconds)
    points = {(point.name, dict(point.labels).get("le")): point for point in to_points(meter.samples())}
    assert points["outrider_verify_step_seconds_bucket", "0.003"].value == 0
    assert points["outrider_verify_step_seconds_bucket", "0.005"].value == 1
    assert points["outrider_verify_step_seconds_bucket", "0.04"].value == 2
    assert points["outrider_verify_step_seconds_bucket", "+Inf"].value == 3
    assert points["outrider_verify_step_seconds_count", None].value == 3
    assert points["outrider_verify_step_seconds_sum", None].value == pytest.approx(9.0341)


def test_points_of_a_counter_are_named_as_prometheus_names_it() -> None:
    meter = Meter()
    meter.counter(measures.REFUSALS).cell("invalid")
    (point,) = to_points(meter.samples())
    assert (point.name, point.labels, point.value) == (
        "outrider_verifier_refusals_total",
        (("reason", "invalid"),),
        0,
    )


def test_the_catalogue_names_units_and_sorts_buckets() -> None:
    for metric in CATALOGUE.values():
        assert not metric.name.endswith("_total")
        assert list(metric.buckets) == sorted(set(metric.buckets))
        assert (metric.kind == "histogram") == bool(metric.buckets)
