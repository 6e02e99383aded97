"""A paced step ends when a table says, and what peers send meanwhile waits its turn without stopping the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from deployments import pacing
from deployments.link import Link
from deployments.messages import Close, Message
from deployments.metering import Meter
from deployments.pacing import Pace, PacedService
from tests.support.fake_link import FakeLink

STEP_MS = 40.0


class Clock:
    """Seconds that only pass when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock, sleep = Clock(), asyncio.sleep

    async def pass_time(seconds: float) -> None:
        await sleep(0)
        clock.now_s += seconds + clock.__dict__.get("oversleep_s", 0.0)

    monkeypatch.setattr(pacing.asyncio, "sleep", pass_time)
    yield clock
    monkeypatch.undo()


def pace_of(clock: Clock, meter: Meter | None = None) -> Pace[int]:
    return Pace("some-gpu", "verifier", lambda work: STEP_MS * work, meter, clock)


def outcomes(meter: Meter) -> dict[tuple[str, ...], float]:
    return {labels: values[0] for name, labels, values in meter.samples() if name == "paced_steps"}


class Recorder:
    """A service that writes down what reaches it; `poison` cannot be handled."""

    poison = 666

    def __init__(self) -> None:
        self.events: list[str] = []

    def link_opened(self, link: Link) -> None:
        self.events.append(f"{link.peer} opened")

    def received(self, link: Link, message: Message) -> None:
        assert isinstance(message, Close)
        if message.session == self.poison:
            raise ValueError("poison")
        self.events.append(f"{link.peer} {message.session}")

    def link_closed(self, link: Link) -> None:
        self.events.append(f"{link.peer} closed")

    async def run(self) -> None: ...


def close_of(session: int) -> Close:
    return Close(session=session, epoch=(1, 1))


async def test_a_step_lasts_as_long_as_the_table_says_whatever_it_took(clock: Clock) -> None:
    meter = Meter()
    pace = pace_of(clock, meter)
    began_s = clock()
    clock.now_s += 0.015  # the computing
    await pace.step_over(2, began_s)
    assert clock() - began_s == pytest.approx(2 * STEP_MS / 1e3)
    assert outcomes(meter) == {("verifier", "some-gpu", "on_time"): 1, ("verifier", "some-gpu", "late"): 0}


async def test_a_step_that_took_longer_here_is_not_waited_for_and_is_counted(clock: Clock) -> None:
    meter = Meter()
    pace = pace_of(clock, meter)
    began_s = clock()
    clock.now_s += 0.5
    await pace.step_over(1, began_s)
    assert clock() - began_s == 0.5
    assert outcomes(meter)["verifier", "some-gpu", "late"] == 1


async def test_a_timer_that_wakes_late_does_not_make_the_hardware_slower(clock: Clock) -> None:
    pace = pace_of(clock)
    clock.__dict__["oversleep_s"] = 0.001
    first_s = clock()
    for _ in range(50):
        await pace.step_over(1, clock())
    assert (clock() - first_s) / 50 == pytest.approx(STEP_MS / 1e3, rel=0.001)


async def test_what_comes_during_a_step_waits_and_keeps_its_order_while_the_loop_runs(clock: Clock) -> None:
    pace, recorder = pace_of(clock), Recorder()
    service, link = PacedService(recorder, pace), FakeLink("router-0", "router")
    service.link_opened(link)
    step = asyncio.create_task(pace.step_over(1, clock()))
    await asyncio.tasks.sleep(0)
    assert pace.is_holding
    service.received(link, close_of(1))
    service.received(link, close_of(2))
    service.link_closed(link)
    assert recorder.events == ["router-0 opened"]
    await step
    await asyncio.tasks.sleep(0)
    assert recorder.events == ["router-0 opened", "router-0 1", "router-0 2", "router-0 closed"]
    service.received(link, close_of(3))
    assert recorder.events[-1] == "router-0 3"


async def test_a_step_is_published_before_anything_that_was_held(clock: Clock) -> None:
    pace, recorder = pace_of(clock), Recorder()
    service, link = PacedService(recorder, pace), FakeLink("router-0", "router")

    async def step() -> None:
        await pace.step_over(1, clock())
        recorder.events.append("published")

    stepping = asyncio.create_task(step())
    await asyncio.tasks.sleep(0)
    service.received(link, close_of(1))
    await stepping
    await asyncio.tasks.sleep(0)
    assert recorder.events == ["published", "router-0 1"]


async def test_a_held_message_that_cannot_be_handled_costs_its_own_link(clock: Clock) -> None:
    pace, recorder = pace_of(clock), Recorder()
    service = PacedService(recorder, pace)
    bad, good = FakeLink("router-0", "router"), FakeLink("router-1", "router")
    step = asyncio.create_task(pace.step_over(1, clock()))
    await asyncio.tasks.sleep(0)
    service.received(bad, close_of(Recorder.poison))
    service.received(good, close_of(7))
    await step
    await asyncio.tasks.sleep(0)
    assert (bad.is_closed, good.is_closed) == (True, False)
    assert recorder.events == ["router-1 7"]


async def test_a_flood_during_a_step_costs_its_own_link_and_the_loss_is_still_told(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "MAX_HELD", 3)
    pace, recorder = pace_of(clock), Recorder()
    service, link = PacedService(recorder, pace), FakeLink("router-0", "router")
    step = asyncio.create_task(pace.step_over(1, clock()))
    await asyncio.tasks.sleep(0)
    for session in range(5):
        service.received(link, close_of(session))
    service.link_closed(link)
    await step
    await asyncio.tasks.sleep(0)
    assert link.is_closed
    assert recorder.events == ["router-0 0", "router-0 1", "router-0 2", "router-0 closed"]
