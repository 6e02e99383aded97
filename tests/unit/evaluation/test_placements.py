"""Remote against colocated at equal cost: what the money buys, and the simulator's shared device."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from autoscaling.simulator.events import EventQueue
from autoscaling.simulator.roles import Device
from autoscaling.simulator.run import Scenario, simulate
from deployments.policy.hardware import DraftTable, pairs
from evaluation.load import placements
from evaluation.load.placements import between, measure, read

PAIR = "h100x2-l4-31b"
BASE = Scenario(pair=pairs()[PAIR], concurrency=1, classes=("prose",), num_tokens=1_500, warm_up_tokens=500)


def test_every_placement_is_of_a_known_pair_and_priced() -> None:
    prices = read()
    for name, placement in prices.placements.items():
        assert name in pairs()
        assert prices.cost(placement.verifier) > prices.cost(placement.drafter) > 0


def test_a_device_does_one_thing_at_a_time_and_tells_who_waits() -> None:
    events, told = EventQueue(), []
    device = Device(events)
    device.on_free(lambda: told.append(("first", events.now_ms)))
    device.on_free(lambda: told.append(("second", events.now_ms)))
    device.compute(5.0, lambda: told.append(("end", events.now_ms)))
    with pytest.raises(AssertionError):
        device.compute(1.0, lambda: None)
    events.run_until(lambda: False)
    assert told == [("end", 5.0), ("first", 5.0), ("second", 5.0)]
    assert not device.is_busy


def test_one_session_waits_for_verifying_and_drafting_in_turn_wherever_they_are() -> None:
    remote, colocated = (simulate(replace(BASE, lookahead=4, colocated=draft)) for draft in (None, BASE.pair.draft))
    # A hop less to a round, of some 25 ms.
    assert 1.0 < colocated.tokens_per_s / remote.tokens_per_s < 1.02
    assert colocated.verifier_share + colocated.drafter_share < 1.0


def test_drafting_takes_from_verifying_on_one_device_only() -> None:
    """With more sessions a remote drafter works beside the verifier; on one device the shares of time add up to one."""
    slow = DraftTable(fixed_ms=0.4, step_ms=6.0)
    many = replace(BASE, pair=replace(BASE.pair, draft=slow), concurrency=16, lookahead=4, num_tokens=4_000)
    remote, colocated = simulate(many), simulate(replace(many, colocated=slow))
    assert remote.verifier_share + remote.drafter_share > 1.0
    assert 0.9 < colocated.verifier_share + colocated.drafter_share <= 1.0 + 1e-9


@dataclass
class Line:
    tokens_per_s: float


def test_half_a_session_more_is_half_of_what_one_more_brings(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {1: 100.0, 2: 150.0, 3: 180.0}
    monkeypatch.setattr(placements, "simulate", lambda scenario: Line(speeds[scenario.concurrency]))
    assert between(BASE, 0.5) == 50.0
    assert between(BASE, 2.0) == 150.0
    assert between(BASE, 2.5) == 165.0


def test_the_same_money_buys_more_verifiers_without_drafters(monkeypatch: pytest.MonkeyPatch) -> None:
    """With speeds by the table of this test, every figure can be computed by hand."""
    seen: list[Scenario] = []

    def speed(scenario: Scenario) -> Line:
        seen.append(scenario)
        if scenario.lookahead == 0:
            return Line(10.0 * scenario.concurrency)
        if scenario.colocated is not None:
            return Line(20.0 * scenario.concurrency)
        # A drafter for two verifiers is as good as one each.
        return Line(30.0 * scenario.concurrency)

    monkeypatch.setattr(placements, "simulate", speed)
    row = measure(PAIR, "prose", 8)
    prices = read()
    verifier, drafter = (prices.cost(gpus) for gpus in (prices.placements[PAIR].verifier, {"l4": 1}))
    assert (row.drafters, row.remote, row.off, row.colocated) == (0.5, 240.0, pytest.approx(80.0), pytest.approx(160.0))
    assert row.ratio == pytest.approx(1.5)
    assert row.usd_per_million == pytest.approx((verifier + drafter / 2) / 3600 / 240 * 1e6)
    # The same sessions on 1.03 verifiers: between seven and eight each.
    assert {one.concurrency for one in seen if one.colocated is not None} == {7, 8}
