"""What the autoscaler is told is what the meter has seen since it was told last."""

from __future__ import annotations

import pytest

from deployments import measures
from deployments.config_parts import AutoscalingConfig
from deployments.metering import Meter
from deployments.policy.signals import VerifierSignals
from deployments.signals import Change, SignalReader, drafter_reader, ingress_reader, router_reader, verifier_reader


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def timed(reader: SignalReader) -> Clock:
    clock = Clock()
    reader._clock, reader._read_s = clock, clock()
    return clock


def test_a_verifier_tells_of_the_time_since_the_last_reading() -> None:
    meter, reader = Meter(), verifier_reader(max_step_tokens=512)
    clock = timed(reader)
    steps, tokens = meter.histogram(measures.STEP_SECONDS).cell(), meter.histogram(measures.STEP_TOKENS).cell()
    steps.observe(0.9)
    clock.now_s += 2
    assert reader.read(meter.samples())["busy_share"] == pytest.approx(0.45)
    for _ in range(50):
        steps.observe(0.012)
        tokens.observe(128)
    meter.histogram(measures.VERIFY_QUEUE_SECONDS).cell().observe(0.003)
    meter.gauge(measures.VERIFIER_SESSIONS).cell().set(7)
    meter.gauge(measures.VERIFIER_WAITING).cell().set(2)
    meter.gauge(measures.KV_USAGE).cell().set(0.5)
    meter.histogram(measures.STEP_SESSIONS).cell().observe(4)
    clock.now_s += 2
    assert reader.read(meter.samples()) == pytest.approx(
        {
            "busy_share": 0.3,
            "step_ms": 12.0,
            "queue_ms": 3.0,
            "step_sessions": 4.0,
            "token_share": 0.25,
            "sessions": 7.0,
            "waiting": 2.0,
            "kv_usage": 0.5,
        }
    )
    clock.now_s += 2
    assert reader.read(meter.samples())["busy_share"] == 0


def test_a_drafter_and_a_router() -> None:
    meter, drafter, router = Meter(), drafter_reader(), router_reader()
    clock = timed(drafter)
    meter.histogram(measures.BATCH_SECONDS).cell().observe(0.01, times=20)
    meter.histogram(measures.QUEUE_SECONDS).cell().observe(0.002)
    meter.gauge(measures.DRAFTER_SESSIONS).cell().set(3)
    phases = meter.gauge(measures.ROUTER_SESSIONS)
    phases.cell("waiting").set(2)
    phases.cell("verifying").set(5)
    clock.now_s += 1
    told = drafter.read(meter.samples())
    assert (told["busy_share"], told["batch_ms"], told["queue_ms"], told["sessions"]) == pytest.approx((0.2, 10, 2, 3))
    assert router.read(meter.samples()) == {"sessions": 7.0, "waiting": 2.0}


def test_an_ingress_tells_what_came_after_its_objective() -> None:
    reader = ingress_reader(AutoscalingConfig(first_token_s=2.5, token_s=0.05))
    meter, clock = Meter(), timed(reader)
    first = meter.histogram(measures.FIRST_TOKEN_SECONDS)
    first.cell("code", "default").observe(0.2, times=6)
    first.cell("prose", "far").observe(4.0, times=2)
    answers = meter.histogram(measures.PER_TOKEN_SECONDS).cell("code", "default")
    answers.observe(0.02)
    answers.observe(0.07)
    meter.histogram(measures.INTER_TOKEN_SECONDS).cell("code", "default").observe(0.06, times=10)
    meter.counter(measures.GENERATION_TOKENS).cell().add(48)  # 8 first ones, 40 later
    meter.gauge(measures.RUNNING).cell().set(4)
    meter.gauge(measures.WAITING).cell().set(1)
    clock.now_s += 4
    assert reader.read(meter.samples()) == pytest.approx(
        {
            "requests": 5.0,
            "first_token_rate": 2.0,
            "late_first_token_rate": 0.5,
            "answer_rate": 0.5,
            "late_answer_rate": 0.25,
            "token_ms": 15.0,
        }
    )


def test_an_objective_within_a_bucket_takes_its_part() -> None:
    before, after = {}, {"time_to_first_token_seconds": {("code",): (0.0,) * 10 + (8.0,) + (0.0,) * 9}}
    metric = measures.FIRST_TOKEN_SECONDS
    assert metric.buckets[9:11] == (0.75, 1)
    assert Change(before, after, 1.0).above(metric, 0.875) == 4
    assert Change(before, after, 1.0).above(metric, 1000) == 0
    assert Change(before, after, 1.0).above(metric, 0.001) == 8


def test_nothing_measured_is_all_zero() -> None:
    assert set(verifier_reader(512).read(())) == set(VerifierSignals.__struct_fields__)
    assert set(verifier_reader(512).read(()).values()) == {0.0}
