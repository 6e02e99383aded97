"""The official client against the service on a real port, with routers on real streams."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from deployments.ingress.generation import FlowLimits
from deployments.messages import Failure, Generate
from tests.support.rest import MODEL
from tests.support.rest_server import RestServer, answering, serve, until

ANSWER = "zebras graze 🙂 behind quartz walls, " * 4 + "quietly."
MESSAGES = [{"role": "user", "content": "hello"}]
FLOW = FlowLimits(recovery_timeout_s=1.5, first_backoff_s=0.005, max_backoff_s=0.02, high_water_tokens=64)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RestServer]:
    async with serve(tmp_path, FLOW) as server:
        yield server


@pytest.fixture
async def api(server: RestServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as api:
        yield api


async def test_an_answer_whole_and_streamed(server: RestServer, api: openai.AsyncOpenAI) -> None:
    await server.add(answering(server, ANSWER))
    whole = await api.chat.completions.create(model=MODEL, messages=MESSAGES)  # type: ignore[arg-type]
    assert whole.choices[0].message.content == ANSWER
    assert whole.choices[0].finish_reason == "stop"
    stream = await api.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"speculation": {"num_speculative_tokens": 3}},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].model_extra["metrics"]["speculative_decoding"]["num_spec_steps"] > 0  # type: ignore[index]
    assert server.routers[0].generates[1].num_speculative_tokens == 3


async def test_a_completion_and_the_list_of_models(server: RestServer, api: openai.AsyncOpenAI) -> None:
    await server.add(answering(server, ANSWER))
    completion = await api.completions.create(model=MODEL, prompt="the", max_tokens=500, stop=[" walls"])
    assert completion.choices[0].text == "zebras graze 🙂 behind quartz"
    stream = await api.completions.create(model=MODEL, prompt="the", max_tokens=500, stop=" walls", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "zebras graze 🙂 behind quartz"
    assert [model.id for model in (await api.models.list()).data] == [MODEL]
    assert (await api.models.retrieve(MODEL)).id == MODEL


async def test_a_stop_string_cancels_at_the_router(server: RestServer, api: openai.AsyncOpenAI) -> None:
    router = await server.add(answering(server, ANSWER * 20, step_s=0.01))
    await api.completions.create(model=MODEL, prompt="the", max_tokens=2000, stop=[" walls"])
    await until(lambda: len(router.cancels) == 1 and router.num_sessions == 0)


async def test_errors_are_the_clients_typed_exceptions(server: RestServer, api: openai.AsyncOpenAI) -> None:
    await server.add(answering(server, ANSWER))
    with pytest.raises(openai.NotFoundError) as missing:
        await api.chat.completions.create(model="other", messages=MESSAGES)  # type: ignore[arg-type]
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        await api.chat.completions.create(model=MODEL, messages=MESSAGES, n=0)  # type: ignore[arg-type]
    assert bad.value.param == "n"
    assert bad.value.request_id
    with pytest.raises(openai.BadRequestError) as long:
        await api.completions.create(model=MODEL, prompt=[9] * 5000)
    assert long.value.code == "context_length_exceeded"


async def test_overload_is_a_503_that_the_client_retries(server: RestServer, api: openai.AsyncOpenAI) -> None:
    router = answering(server, ANSWER)
    router.refusal = lambda generate: Failure(request=generate.request, code="overloaded", detail="full")
    await server.add(router)
    with pytest.raises(openai.InternalServerError) as full:
        await api.chat.completions.create(model=MODEL, messages=MESSAGES)  # type: ignore[arg-type]
    assert (full.value.status_code, full.value.code) == (503, "overloaded")
    assert full.value.response.headers["retry-after"] == "1"

    def refuse_once(generate: Generate) -> Failure | None:
        if len(router.generates) == 2:
            return Failure(request=generate.request, code="overloaded", detail="full")
        return None

    router.refusal = refuse_once
    patient = api.with_options(max_retries=2)
    answer = await patient.chat.completions.create(model=MODEL, messages=MESSAGES)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == ANSWER
    assert len(router.generates) == 3


async def test_without_a_router_the_service_is_not_ready(server: RestServer, api: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as none:
        await api.chat.completions.create(model=MODEL, messages=MESSAGES)  # type: ignore[arg-type]
    assert none.value.status_code == 503
    await server.add(answering(server, ANSWER))
    assert (await api.chat.completions.create(model=MODEL, messages=MESSAGES)).choices  # type: ignore[arg-type]


async def test_a_router_lost_in_mid_stream_is_invisible(server: RestServer, api: openai.AsyncOpenAI) -> None:
    routers = [await server.add(answering(server, ANSWER, step_s=0.005)) for _ in range(2)]
    stream = await api.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, seed=5)  # type: ignore[call-overload]
    text = ""
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if len(text) > 20 and len(routers) == 2:
            lost = next(router for router in routers if router.generates)
            routers.remove(lost)
            server.listeners[server.routers.index(lost)].close()
    assert text == ANSWER
    (resumed,) = routers[0].generates
    assert len(resumed.tokens) > resumed.num_prompt_tokens
    assert resumed.params.seed == 5


async def test_a_stream_that_cannot_go_on_raises_in_the_client(server: RestServer, api: openai.AsyncOpenAI) -> None:
    await server.add(answering(server, ANSWER, step_s=0.005))
    stream = await api.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)  # type: ignore[call-overload]
    read: list[str] = []

    async def read_on() -> None:
        async for chunk in stream:
            read.append(chunk.choices[0].delta.content or "")
            if len(read) == 3:
                server.listeners[0].close()

    with pytest.raises(openai.APIError, match="cannot take requests"):
        await read_on()
    assert ANSWER.startswith("".join(read))
    assert len(read) >= 3


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_leaves_frees_its_session(
    server: RestServer, api: openai.AsyncOpenAI, stream: bool
) -> None:
    router = await server.add(answering(server, ANSWER * 20, step_s=0.01))
    asking = asyncio.ensure_future(
        api.chat.completions.create(model=MODEL, messages=MESSAGES, stream=stream)  # type: ignore[call-overload]
    )
    await until(lambda: router.num_sessions == 1)
    if stream:
        await (await asking).close()
    else:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: len(router.cancels) == 1 and router.num_sessions == 0)
    assert server.client.num_requests == 0


async def test_a_client_that_does_not_read_pauses_its_session(server: RestServer) -> None:
    router = await server.add(answering(server, ANSWER * 60, tokens_per_commit=1))
    # A window of a few kilobytes, so that little fits between server and reader.
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    body = '{"model": "tiny", "stream": true, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4000}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write((head + body).encode())
    await until(lambda: [flow.paused for flow in router.flows] == [True])
    assert router.num_sessions == 1
    text = b""
    try:
        async with asyncio.timeout(120):
            while b"[DONE]" not in text:
                text += await reader.read(65536)
    finally:
        writer.close()
        await writer.wait_closed()
    assert not router.flows[-1].paused


async def test_sixteen_good_requests_finish_unchanged_among_bad_ones(
    server: RestServer, api: openai.AsyncOpenAI
) -> None:
    await server.add(answering(server, ANSWER, step_s=0.002))
    await server.add(answering(server, ANSWER, step_s=0.001))
    good = [api.chat.completions.create(model=MODEL, messages=MESSAGES) for _ in range(16)]  # type: ignore[arg-type]
    bad = [
        api.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=-i)  # type: ignore[arg-type]
        for i in range(16)
    ]
    results = await asyncio.gather(*good, *bad, return_exceptions=True)
    assert [result.choices[0].message.content for result in results[:16]] == [ANSWER] * 16  # type: ignore[union-attr]
    assert all(isinstance(result, openai.BadRequestError) for result in results[16:])
    assert sorted(len(router.generates) for router in server.routers) == [8, 8]
