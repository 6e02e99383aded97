"""RouterClient over links that only remember what was sent: placing, moving, flow and cancelling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from deployments.ingress.errors import ApiError
from deployments.ingress.generation import FlowLimits, GenerateRequest, RouterClient
from deployments.messages import Cancel, Commit, Commits, Failure, FinishReason, Generate, SamplingParams, SetFlow
from tests.support.fake_link import FakeLink

PROMPT = (2, 10, 11)
PARAMS = SamplingParams(temperature=0.8, seed=7)
LIMITS = FlowLimits(
    high_water_tokens=4,
    low_water_tokens=2,
    recovery_timeout_s=10.0,
    silence_timeout_s=10.0,
    first_backoff_s=0.001,
    max_backoff_s=0.01,
)
IMPATIENT = replace(LIMITS, recovery_timeout_s=0.15)


def request(name: str = "a") -> GenerateRequest:
    return GenerateRequest(id=name, prompt=PROMPT, max_context_tokens=20, params=PARAMS, stop_token_ids=(5,))


class Rig:
    """A client and any number of routers."""

    def __init__(self, num_routers: int = 1, limits: FlowLimits = LIMITS) -> None:
        self.client = RouterClient(limits)
        self.links = [self.open(f"router-{i}") for i in range(num_routers)]

    def open(self, peer: str) -> FakeLink:
        link = FakeLink(peer, "router")
        self.client.link_opened(link)  # type: ignore[arg-type]
        return link

    def lose(self, link: FakeLink) -> None:
        link.is_closed = True
        self.client.link_closed(link)  # type: ignore[arg-type]

    def commit(
        self, link: FakeLink, context_len: int, *tokens: int, end: FinishReason | None = None, to: str | None = None
    ) -> None:
        name = to or self.generates(link)[-1].request
        commit = Commit(
            request=name, context_len=context_len, tokens=tokens, num_drafted=3, num_accepted=2, finish_reason=end
        )
        self.client.received(link, Commits(items=(commit,)))  # type: ignore[arg-type]

    def fail(self, link: FakeLink, code: str) -> None:
        name = self.generates(link)[-1].request
        self.client.received(link, Failure(request=name, code=code, detail="because"))  # type: ignore[arg-type]

    async def generated(self, link: FakeLink, number: int) -> None:
        """Wait until the link was sent so many Generates."""
        for _ in range(5000):
            if len(self.generates(link)) >= number:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"{link.peer} was not sent {number} requests")

    def generates(self, link: FakeLink) -> list[Generate]:
        return [message for message in link.sent if isinstance(message, Generate)]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def tokens_of(stream: AsyncGenerator[Commit, None]) -> list[int]:
    return [token async for commit in stream for token in commit.tokens]


async def begin(stream: AsyncGenerator[Commit, None]) -> asyncio.Task[list[int]]:
    task = asyncio.ensure_future(tokens_of(stream))
    await settle()
    return task


async def test_a_request_goes_out_whole_and_its_commits_come_back() -> None:
    rig = Rig()
    task = await begin(rig.client.generate(request()))
    (generate,) = rig.generates(rig.links[0])
    assert generate.tokens == PROMPT
    assert (generate.num_prompt_tokens, generate.max_context_tokens, generate.params) == (3, 20, PARAMS)
    assert generate.stop_token_ids == (5,)
    rig.commit(rig.links[0], 3, 20, 21)
    rig.commit(rig.links[0], 5, 22, end="stop")
    assert await task == [20, 21, 22]
    assert rig.client.num_requests == 0
    assert not [message for message in rig.links[0].sent if isinstance(message, Cancel)]


async def test_the_router_with_the_fewest_requests_takes_the_next() -> None:
    rig = Rig(num_routers=2)
    tasks = [await begin(rig.client.generate(request(f"r{i}"))) for i in range(5)]
    assert sorted(len(rig.generates(link)) for link in rig.links) == [2, 3]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert rig.client.num_requests == 0


async def test_positions_that_come_twice_are_taken_once() -> None:
    rig = Rig()
    task = await begin(rig.client.generate(request()))
    rig.commit(rig.links[0], 3, 20, 21)
    rig.commit(rig.links[0], 3, 20, 21)
    rig.commit(rig.links[0], 4, 21, 22)
    rig.commit(rig.links[0], 4, 21, 22, 23, end="stop")
    assert await task == [20, 21, 22, 23]


async def test_the_end_counts_even_if_its_tokens_are_known() -> None:
    rig = Rig()
    task = await begin(rig.client.generate(request()))
    rig.commit(rig.links[0], 3, 20)
    rig.commit(rig.links[0], 3, 20, end="length")
    assert await task == [20]


async def test_a_gap_moves_the_request_and_loses_nothing() -> None:
    rig = Rig(num_routers=2)
    task = await begin(rig.client.generate(request()))
    first, second = sorted(rig.links, key=lambda link: -len(rig.generates(link)))
    rig.commit(first, 3, 20)
    rig.commit(first, 5, 22)
    await settle()
    assert isinstance(first.sent[-1], Cancel)
    (resumed,) = rig.generates(second)
    assert resumed.tokens == (*PROMPT, 20)
    rig.commit(second, 4, 21, end="stop")
    assert await task == [20, 21]


async def test_a_lost_router_is_invisible_to_the_reader() -> None:
    rig = Rig(num_routers=2)
    task = await begin(rig.client.generate(request()))
    first, second = sorted(rig.links, key=lambda link: -len(rig.generates(link)))
    rig.commit(first, 3, 20, 21)
    stale = rig.generates(first)[0].request
    rig.lose(first)
    await settle()
    (resumed,) = rig.generates(second)
    assert resumed.tokens == (*PROMPT, 20, 21)
    assert (resumed.num_prompt_tokens, resumed.max_context_tokens, resumed.params) == (3, 20, PARAMS)
    rig.commit(second, 5, 99, to=stale)  # what the old placement still sends belongs to nobody
    rig.commit(second, 5, 22, end="stop")
    assert await task == [20, 21, 22]


async def test_a_request_waits_for_the_next_router_when_the_only_one_is_lost() -> None:
    rig = Rig()
    task = await begin(rig.client.generate(request()))
    rig.commit(rig.links[0], 3, 20)
    rig.lose(rig.links[0])
    await settle()
    assert not rig.client.is_ready
    replacement = rig.open("router-9")
    await settle()
    assert rig.generates(replacement)[0].tokens == (*PROMPT, 20)
    rig.commit(replacement, 4, 21, end="stop")
    assert await task == [20, 21]


async def test_a_reader_that_comes_long_after_the_loss_still_gets_a_new_router() -> None:
    rig = Rig(num_routers=2, limits=IMPATIENT)
    stream = rig.client.generate(request())
    reading = asyncio.ensure_future(anext(stream))
    await settle()
    first, second = sorted(rig.links, key=lambda link: -len(rig.generates(link)))
    rig.commit(first, 3, 20)
    await reading
    rig.lose(first)
    await asyncio.sleep(2 * IMPATIENT.recovery_timeout_s)
    task = await begin(stream)
    rig.commit(second, 4, 21, end="stop")
    assert await task == [21]


async def test_without_any_router_the_request_fails_after_its_deadline() -> None:
    rig = Rig(limits=IMPATIENT)
    task = await begin(rig.client.generate(request()))
    rig.lose(rig.links[0])
    with pytest.raises(ApiError) as caught:
        await asyncio.wait_for(task, 2)
    assert (caught.value.status, caught.value.code) == (503, "unavailable")
    assert caught.value.retry_after_s is not None


async def test_no_router_at_all_is_a_503_at_once() -> None:
    with pytest.raises(ApiError) as caught:
        await tokens_of(RouterClient(LIMITS).generate(request()))
    assert caught.value.status == 503


@pytest.mark.parametrize(("code", "status"), [("overloaded", 503), ("invalid", 400)])
async def test_a_refusal_reaches_the_client(code: str, status: int) -> None:
    rig = Rig(num_routers=2)
    task = await begin(rig.client.generate(request()))
    link = next(link for link in rig.links if rig.generates(link))
    rig.fail(link, code)
    with pytest.raises(ApiError) as caught:
        await task
    assert caught.value.status == status
    assert sum(len(rig.generates(one)) for one in rig.links) == 1


async def test_a_router_that_gives_up_is_tried_again_with_pauses_until_it_works() -> None:
    rig = Rig()
    task = await begin(rig.client.generate(request()))
    for attempt in range(2, 5):
        rig.fail(rig.links[0], "unavailable")
        await rig.generated(rig.links[0], attempt)
    rig.commit(rig.links[0], 3, 20, end="stop")
    assert await task == [20]


async def test_a_router_that_always_gives_up_fails_the_request_after_its_deadline() -> None:
    rig = Rig(limits=IMPATIENT)
    link = rig.links[0]
    task = await begin(rig.client.generate(request()))
    for attempt in range(1, 1000):
        await rig.generated(link, attempt)
        rig.fail(link, "unavailable")
        await asyncio.wait({task}, timeout=0.011)
        if task.done():
            break
    with pytest.raises(ApiError) as caught:
        await asyncio.wait_for(task, 0.1)
    assert caught.value.status == 503
    assert 3 <= len(rig.generates(link)) <= 40  # pauses, not a storm


async def test_an_admitted_request_outlives_an_overloaded_router() -> None:
    rig = Rig(num_routers=2)
    task = await begin(rig.client.generate(request()))
    first, second = sorted(rig.links, key=lambda link: -len(rig.generates(link)))
    rig.commit(first, 3, 20)
    rig.lose(first)
    await settle()
    rig.fail(second, "overloaded")
    await rig.generated(second, 2)
    rig.commit(second, 4, 21, end="stop")
    assert await task == [20, 21]


async def test_a_silent_router_loses_the_request() -> None:
    rig = Rig(num_routers=2, limits=replace(LIMITS, silence_timeout_s=0.2))
    task = await begin(rig.client.generate(request()))
    first, second = sorted(rig.links, key=lambda link: -len(rig.generates(link)))
    await rig.generated(second, 1)
    assert isinstance(first.sent[-1], Cancel)
    rig.commit(second, 3, 20, end="stop")
    assert await task == [20]


async def test_a_slow_reader_pauses_its_session_and_resumes_it_when_it_has_caught_up() -> None:
    rig = Rig()
    link = rig.links[0]
    stream = rig.client.generate(request())
    reading = asyncio.ensure_future(anext(stream))
    await settle()
    for position in range(3, 9):
        rig.commit(link, position, 20 + position)
    flows = [message.paused for message in link.sent if isinstance(message, SetFlow)]
    assert flows == [True]  # at the fifth unread token, once
    await reading
    for _ in range(2):
        await anext(stream)
    assert [message.paused for message in link.sent if isinstance(message, SetFlow)] == [True]
    await anext(stream)
    assert [message.paused for message in link.sent if isinstance(message, SetFlow)] == [True, False]
    await stream.aclose()


async def test_a_reader_that_leaves_cancels_at_once() -> None:
    rig = Rig()
    stream = rig.client.generate(request())
    reading = asyncio.ensure_future(anext(stream))
    await settle()
    rig.commit(rig.links[0], 3, 20)
    await reading
    await stream.aclose()
    assert rig.links[0].sent[-1] == Cancel(request=rig.generates(rig.links[0])[0].request)
    assert rig.client.num_requests == 0
    rig.commit(rig.links[0], 4, 21)  # was on its way: nobody minds


async def test_a_router_whose_link_has_just_closed_is_passed_over() -> None:
    rig = Rig(num_routers=2)
    rig.links[0].is_closed = True
    task = await begin(rig.client.generate(request()))
    rig.commit(rig.links[1], 3, 20, end="stop")
    assert await task == [20]
