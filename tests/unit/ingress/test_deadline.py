"""A request that takes too long ends in an error, and what it waited for is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx
import pytest

from deployments.ingress.app import create_app
from deployments.ingress.context import IngressContext
from deployments.ingress.deadline import within
from deployments.ingress.errors import ApiError
from tests.support.rest import CHAT, ScriptedClient, events_of


async def numbers(count: int, pause_s: float = 0.0) -> AsyncGenerator[int, None]:
    for number in range(count):
        await asyncio.sleep(pause_s)
        yield number


async def test_parts_in_time_pass_unchanged() -> None:
    assert [part async for part in within(60.0, numbers(5))] == [0, 1, 2, 3, 4]


async def test_the_bound_is_on_the_sum_of_the_parts() -> None:
    seen = []

    async def read() -> None:
        async for part in within(0.3, numbers(1000, pause_s=0.02)):
            seen.append(part)

    with pytest.raises(ApiError) as caught:
        await read()
    assert (caught.value.status, caught.value.code) == (504, "request_timeout")
    assert 1 <= len(seen) <= 15


async def test_another_timeout_is_not_taken_for_the_deadline() -> None:
    async def broken() -> AsyncGenerator[int, None]:
        yield 1
        raise TimeoutError("of something else")

    parts = within(60.0, broken())
    assert await anext(parts) == 1
    with pytest.raises(TimeoutError, match="something else"):
        await anext(parts)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_request_over_the_limit(context: IngressContext, client: ScriptedClient, is_stream: bool) -> None:
    client.hangs_after = 3
    hasty = replace(context, limits=replace(context.limits, max_request_s=0.3))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(hasty)), base_url="http://test") as http:
        response = await http.post("/v1/chat/completions", json={**CHAT, "stream": is_stream})
    if is_stream:
        error = events_of(response)[-1]["error"]
    else:
        assert response.status_code == 504
        error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("timeout_error", "max_tokens", "request_timeout")
    assert client.num_open == 0
