"""Admission: bounds of tenants and deployment, places in order, tokens charged ahead and settled, nothing leaked."""

from __future__ import annotations

import asyncio
import random

import pytest

from deployments.ingress.admission import Admission, AdmissionLimits, Ticket
from deployments.ingress.errors import ApiError
from deployments.ingress.tenants import EVERYBODY, Tenant


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_is_over_running_and_waiting_is_refused_at_once() -> None:
    admission = Admission(AdmissionLimits(max_running=2, max_waiting=1))
    tickets = [admission.enter(EVERYBODY) for _ in range(3)]
    with pytest.raises(ApiError) as full:
        admission.enter(EVERYBODY)
    assert (full.value.status, full.value.code) == (503, "overloaded")
    assert full.value.retry_after_s is not None
    assert [ticket.start_at_once() for ticket in tickets] == [True, True, False]
    tickets[2].close(is_refused=False)
    tickets[2].close(is_refused=False)
    assert admission.num_inside == admission.num_running == 2
    assert not admission.enter(EVERYBODY).start_at_once()


async def test_places_go_to_the_interactive_first_and_then_by_age() -> None:
    admission = Admission(AdmissionLimits(max_running=1, max_waiting=9))
    running = admission.enter(EVERYBODY)
    assert running.start_at_once()
    order: list[str] = []
    tickets: dict[str, Ticket] = {}

    async def come(name: str, priority: str) -> None:
        tickets[name] = admission.enter(EVERYBODY)
        await tickets[name].start(priority)  # type: ignore[arg-type]
        order.append(name)

    coming = []
    for name, priority in (("b1", "batch"), ("i1", "interactive"), ("b2", "batch"), ("i2", "interactive")):
        coming.append(asyncio.create_task(come(name, priority)))
        await asyncio.sleep(0)
    last = running
    for name in ("i1", "i2", "b1", "b2"):
        last.close(is_refused=False)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order[-1] == name
        assert admission.num_running == 1
        last = tickets[name]
    last.close(is_refused=False)
    await asyncio.gather(*coming)
    assert admission.num_inside == admission.num_running == 0


async def test_who_waits_too_long_is_refused_and_leaves_no_trace() -> None:
    admission = Admission(AdmissionLimits(max_running=1, max_waiting=1, max_wait_s=0.02))
    running = admission.enter(EVERYBODY)
    running.start_at_once()
    waiting = admission.enter(EVERYBODY)
    with pytest.raises(ApiError, match="no place") as late:
        await waiting.start("batch")
    assert late.value.status == 503
    waiting.close(is_refused=True)
    running.close(is_refused=False)
    assert admission.num_inside == admission.num_running == 0
    assert admission.enter(EVERYBODY).start_at_once()


async def test_whatever_is_cancelled_whenever_every_place_comes_back() -> None:
    chance = random.Random(7)
    admission = Admission(AdmissionLimits(max_running=3, max_waiting=1000))
    most = 0

    async def come() -> None:
        nonlocal most
        ticket = admission.enter(EVERYBODY)
        try:
            await ticket.start(chance.choice(["batch", "interactive"]), chance.randrange(1, 5))  # type: ignore[arg-type]
            most = max(most, admission.num_running)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            ticket.close(is_refused=False)

    tasks = [asyncio.create_task(come()) for _ in range(300)]
    while pending := [task for task in tasks if not task.done()]:
        for task in chance.sample(pending, min(len(pending), 2)):
            if chance.random() < 0.6:
                task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 3
    assert admission.num_inside == admission.num_running == 0
    assert not any(admission._queues.values())


async def test_choices_take_places_and_are_not_overtaken() -> None:
    admission = Admission(AdmissionLimits(max_running=3, max_waiting=9))
    running = [admission.enter(EVERYBODY) for _ in range(2)]
    assert all(ticket.start_at_once() for ticket in running)
    many, one = admission.enter(EVERYBODY), admission.enter(EVERYBODY)
    assert not many.start_at_once(8)  # more than there are means all there are
    waiting = [asyncio.create_task(many.start("batch", 8))]
    await asyncio.sleep(0)
    assert not one.start_at_once()
    waiting.append(asyncio.create_task(one.start("batch")))
    for ticket in running:
        assert not waiting[0].done()
        ticket.close(is_refused=False)
        await asyncio.sleep(0)
    await waiting[0]
    assert (admission.num_running, waiting[1].done()) == (3, False)
    many.close(is_refused=False)
    await waiting[1]
    one.close(is_refused=False)
    assert admission.num_running == admission.num_inside == 0


async def test_places_freed_before_the_wait_begins_are_not_missed() -> None:
    admission = Admission(AdmissionLimits(max_running=1, max_waiting=9, max_wait_s=5))
    running, next_one = admission.enter(EVERYBODY), admission.enter(EVERYBODY)
    assert running.start_at_once()
    assert not next_one.start_at_once()
    running.close(is_refused=False)
    async with asyncio.timeout(1):
        await next_one.start("batch")


async def test_one_that_leaves_lets_the_one_behind_it_in() -> None:
    admission = Admission(AdmissionLimits(max_running=2, max_waiting=9))
    assert admission.enter(EVERYBODY).start_at_once()
    many, one = (asyncio.create_task(admission.enter(EVERYBODY).start("batch", wanted)) for wanted in (2, 1))
    await asyncio.sleep(0)
    many.cancel()
    await one
    assert admission.num_running == 2


def test_a_tenants_requests_are_bounded_and_others_are_not(clock: Clock) -> None:
    admission = Admission(AdmissionLimits(), clock)
    few, other = Tenant(name="few", max_concurrent_requests=2), Tenant(name="other")
    held = [admission.enter(few) for _ in range(2)]
    with pytest.raises(ApiError) as bound:
        admission.enter(few)
    assert (bound.value.status, bound.value.code) == (429, "rate_limit_exceeded")
    assert bound.value.retry_after_s is not None
    admission.enter(other)
    held[0].close(is_refused=False)
    admission.enter(few)


def test_replicas_share_what_the_deployment_may_have(clock: Clock) -> None:
    limits = AdmissionLimits(max_running=4, max_waiting=2, num_replicas=2)
    replicas = [Admission(limits, clock) for _ in range(2)]
    tenant = Tenant(name="t", max_concurrent_requests=3, tokens_per_minute=600)
    num_in = 0
    for admission in replicas:
        for _ in range(9):
            try:
                admission.enter(tenant)
            except ApiError:
                break
            num_in += 1
    assert num_in <= 3
    for admission in replicas:
        (ticket := admission.enter(Tenant(name="u", tokens_per_minute=600))).charge(300, 0, lambda: 0)
        ticket.close(is_refused=False)
        with pytest.raises(ApiError):
            admission.enter(Tenant(name="u", tokens_per_minute=600))
    for admission in replicas:
        while admission.num_inside < 3:
            admission.enter(EVERYBODY)
        with pytest.raises(ApiError):
            admission.enter(EVERYBODY)


def test_tokens_are_charged_ahead_and_settled_at_the_end(clock: Clock) -> None:
    admission = Admission(AdmissionLimits(), clock)
    tenant = Tenant(name="t", tokens_per_minute=600)
    first = admission.enter(tenant)
    first.charge(100, 400, lambda: 20)
    second = admission.enter(tenant)
    with pytest.raises(ApiError) as short:
        second.charge(100, 100, lambda: 0)
    assert (short.value.status, short.value.retry_after_s) == (429, pytest.approx(10))
    first.close(is_refused=False)  # used 120 and not 500
    second.charge(100, 100, lambda: 0)
    third = admission.enter(tenant)
    third.charge(280, 0, lambda: 0)
    with pytest.raises(ApiError) as empty:
        admission.enter(tenant)
    assert empty.value.retry_after_s == pytest.approx(0.1)
    clock.now_s += 0.11
    admission.enter(tenant)


def test_what_the_service_failed_costs_nothing(clock: Clock) -> None:
    admission = Admission(AdmissionLimits(), clock)
    tenant = Tenant(name="t", tokens_per_minute=600)
    ticket = admission.enter(tenant)
    ticket.charge(100, 500, lambda: 3)
    ticket.close(is_refused=True)
    again = admission.enter(tenant)
    again.charge(100, 500, lambda: 3)


def test_an_answer_longer_than_foreseen_leaves_a_debt(clock: Clock) -> None:
    admission = Admission(AdmissionLimits(), clock)
    tenant = Tenant(name="t", tokens_per_minute=600)
    ticket = admission.enter(tenant)
    ticket.charge(2000, 256, lambda: 1000)  # more than a minute's, which would never be there
    ticket.close(is_refused=False)
    with pytest.raises(ApiError) as owing:
        admission.enter(tenant)
    assert owing.value.retry_after_s == pytest.approx(240.1)


def test_bounds_that_change_keep_what_was_used(clock: Clock) -> None:
    admission = Admission(AdmissionLimits(), clock)
    before, after = Tenant(name="t", tokens_per_minute=600), Tenant(name="t", tokens_per_minute=60)
    ticket = admission.enter(before)
    ticket.charge(580, 0, lambda: 0)
    lower = admission.enter(after)
    with pytest.raises(ApiError) as short:
        lower.charge(30, 0, lambda: 0)
    assert short.value.retry_after_s == pytest.approx(10)
    ticket.close(is_refused=False)
    unbounded = Tenant(name="t")
    admission.enter(unbounded).charge(10**6, 0, lambda: 0)


async def test_bounds_follow_the_number_of_replicas_that_share_them() -> None:
    admission = Admission(AdmissionLimits(max_running=4, max_waiting=4, num_replicas=2))
    tenant = Tenant(name="acme", max_concurrent_requests=4)
    inside = [admission.enter(tenant) for _ in range(2)]
    with pytest.raises(ApiError, match="acme has 2 requests under way"):
        admission.enter(tenant)
    assert [ticket.start_at_once() for ticket in inside] == [True, True]
    waiting = admission.enter(EVERYBODY)
    assert not waiting.start_at_once()
    start = asyncio.create_task(waiting.start("interactive"))
    await asyncio.sleep(0)
    assert not start.done()
    admission.share_among(1)  # the other one is gone
    await asyncio.wait_for(start, 1)
    assert admission.enter(tenant)
    admission.share_among(4)
    with pytest.raises(ApiError) as full:
        admission.enter(EVERYBODY)
    assert full.value.code == "overloaded"
    assert admission.num_running == 3, "who is inside stays"


async def test_a_share_that_shrinks_does_not_hold_up_who_wants_many_places() -> None:
    admission = Admission(AdmissionLimits(max_running=4, max_waiting=9))
    first, many = admission.enter(EVERYBODY), admission.enter(EVERYBODY)
    assert first.start_at_once()
    start = asyncio.create_task(many.start("interactive", num_choices=4))
    await asyncio.sleep(0)
    admission.share_among(2)
    first.close(is_refused=False)
    await asyncio.wait_for(start, 1)
    assert admission.num_running == 2


async def test_more_may_run_from_one_moment_to_the_next() -> None:
    admission = Admission(AdmissionLimits(max_running=2, max_waiting=4, num_replicas=2))
    first, second = admission.enter(EVERYBODY), admission.enter(EVERYBODY)
    assert first.start_at_once()
    start = asyncio.create_task(second.start("interactive"))
    await asyncio.sleep(0)
    assert not start.done()
    admission.run_at_most(4)  # a verifier has come
    await asyncio.wait_for(start, 1)
    admission.run_at_most(2)  # and goes: who runs goes on
    assert admission.num_running == 2
    first.close(is_refused=False)
    assert not admission.enter(EVERYBODY).start_at_once()
