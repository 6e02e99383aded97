"""Keys, bounds and limits on a real port, as the official client and bare sockets meet them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from deployments.ingress.access import Access
from deployments.ingress.admission import Admission, AdmissionLimits
from deployments.ingress.tenants import KeyRing, hash_of, new_key, read_tenants
from deployments.watched import Watched
from evaluation.load.metrics import parse_sums
from tests.support.rest import MODEL
from tests.support.rest_server import RestServer, answering, serve, until
from tests.support.serve_process import Server

ANSWER = "zebras graze behind quartz walls, " * 3 + "quietly."
MESSAGES: Any = [{"role": "user", "content": "hello"}]
KEYS = {name: new_key() for name in ("free", "few", "tokens", "narrow", "elsewhere", "batch")}
TENANTS: list[dict[str, Any]] = [
    {"name": "free"},
    {"name": "few", "max_concurrent_requests": 1},
    {"name": "tokens", "tokens_per_minute": 60},
    {
        "name": "narrow",
        "max_speculative_tokens": 2,
        "drafters": ["mtp", "none"],
        "max_prompt_tokens": 40,
        "max_output_tokens": 8,
    },
    {"name": "elsewhere", "models": ["another"]},
    {"name": "batch", "priority": "batch"},
]


def write_keys(file: Path, *names: str) -> None:
    tenants = [{**tenant, "keys": [{"sha256": hash_of(KEYS[tenant["name"]])}]} for tenant in TENANTS]
    file.write_text(yaml.safe_dump({"tenants": [tenant for tenant in tenants if tenant["name"] in names]}))


@asynccontextmanager
async def guarded(folder: Path, limits: AdmissionLimits | None = None, **options: Any) -> AsyncIterator[RestServer]:
    """A server with the tenants above, its keys looked at on every request."""
    write_keys(folder / "keys.yaml", *KEYS)
    keys = Watched([folder / "keys.yaml"], lambda: KeyRing(read_tenants(folder / "keys.yaml")), period_s=0.0)
    metrics_need_key = options.pop("metrics_need_key", False)
    access = Access(keys, metrics_need_key=metrics_need_key)
    async with serve(folder, access=access, admission=Admission(limits or AdmissionLimits()), **options) as server:
        yield server


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RestServer]:
    async with guarded(tmp_path) as server:
        yield server


def client(server: RestServer, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


async def test_a_key_opens_and_a_wrong_one_does_not(server: RestServer) -> None:
    await server.add(answering(server, ANSWER))
    async with client(server, KEYS["free"]) as api:
        answer = await api.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert answer.choices[0].message.content == ANSWER
        assert [model.id for model in (await api.models.list()).data] == [MODEL]
    for wrong in (new_key(), KEYS["free"][:-1], "none"):
        async with client(server, wrong) as api:
            with pytest.raises(openai.AuthenticationError) as refused:
                await api.chat.completions.create(model=MODEL, messages=MESSAGES)
            assert (refused.value.code, refused.value.type) == ("invalid_api_key", "authentication_error")
            assert refused.value.request_id
            assert wrong not in json.dumps(refused.value.body)
            with pytest.raises(openai.AuthenticationError):
                await api.models.list()
    assert len(server.routers[0].generates) == 1


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", KEYS["free"], f"Bearer{KEYS['free']}"])
async def test_without_a_usable_header_it_is_a_401(server: RestServer, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/nothing")):
            response = await http.request(method, path)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
        for path in ("/health", "/version", "/", "/metrics"):
            assert (await http.get(path)).status_code == 200
        assert (await http.get("/ready")).status_code == 503


async def test_metrics_may_need_a_key_as_well(tmp_path: Path) -> None:
    async with guarded(tmp_path, metrics_need_key=True) as server, httpx.AsyncClient(base_url=server.url) as http:
        assert (await http.get("/metrics")).status_code == 401
        headers = {"authorization": f"bearer {KEYS['free']}"}
        assert (await http.get("/metrics", headers=headers)).status_code == 200
        assert (await http.get("/health")).status_code == 200


async def test_keys_change_with_the_file_and_without_a_restart(
    server: RestServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with client(server, KEYS["free"]) as free, client(server, KEYS["few"]) as few:
        write_keys(tmp_path / "keys.yaml", "few")
        with pytest.raises(openai.AuthenticationError):
            await free.models.list()
        await few.models.list()
        for broken in ("tenants: [", f"tenants: [{{name: free, keys: [{KEYS['free']}]}}]"):
            (tmp_path / "keys.yaml").write_text(broken)
            await few.models.list()
        (tmp_path / "keys.yaml").unlink()
        await few.models.list()
        assert "keys.yaml" in caplog.text
        assert KEYS["free"] not in caplog.text
        write_keys(tmp_path / "keys.yaml", "free")
        await free.models.list()
        with pytest.raises(openai.AuthenticationError):
            await few.models.list()


async def test_what_a_tenant_may_not_have_is_a_403_that_names_it(server: RestServer) -> None:
    router = await server.add(answering(server, ANSWER))
    async with client(server, KEYS["elsewhere"]) as api:
        for unnamed in ({}, {"model": None}):
            with pytest.raises(openai.PermissionDeniedError) as model:
                await api.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body=unnamed)
            assert (model.value.param, model.value.code) == ("model", "model_not_allowed")
    async with client(server, KEYS["narrow"]) as api:
        for param, asked in (
            ("speculation.num_speculative_tokens", {"extra_body": {"speculation": {"num_speculative_tokens": 3}}}),
            ("speculation.drafter", {"extra_body": {"speculation": {"drafter": "prompt_lookup"}}}),
            ("max_tokens", {"max_tokens": 9}),
            ("messages", {"messages": [{"role": "user", "content": "word " * 50}]}),
        ):
            with pytest.raises(openai.PermissionDeniedError) as refused:
                await api.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, **asked})  # type: ignore
            assert (refused.value.param, refused.value.code) == (param, "parameter_not_allowed")
        assert not router.generates
        open_answer = await api.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert (open_answer.choices[0].finish_reason, open_answer.usage.completion_tokens) == ("length", 8)  # type: ignore
        (asked_for,) = router.generates
        assert (asked_for.drafter, asked_for.num_speculative_tokens, asked_for.max_speculative_tokens) == (
            "mtp",
            None,
            2,
        )


async def test_a_tenants_concurrency_is_a_429_that_says_when(server: RestServer) -> None:
    await server.add(answering(server, ANSWER, step_s=0.01))
    async with client(server, KEYS["few"]) as few, client(server, KEYS["free"]) as free:
        stream = await few.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        with pytest.raises(openai.RateLimitError) as bound:
            await few.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert bound.value.code == "rate_limit_exceeded"
        assert int(bound.value.response.headers["retry-after"]) >= 1
        assert (await free.chat.completions.create(model=MODEL, messages=MESSAGES)).choices
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text == ANSWER
        assert (await few.chat.completions.create(model=MODEL, messages=MESSAGES)).choices


async def test_a_client_that_leaves_gives_its_place_back(server: RestServer) -> None:
    router = await server.add(answering(server, ANSWER, step_s=0.02))
    async with client(server, KEYS["few"]) as api:
        for _ in range(3):
            stream = await api.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            await anext(aiter(stream))
            await stream.close()
            await until(lambda: router.num_sessions == 0)
            await asyncio.sleep(0.05)


async def test_tokens_per_minute_are_a_429_that_says_when(server: RestServer) -> None:
    await server.add(answering(server, ANSWER))
    async with client(server, KEYS["tokens"]) as api:
        answer = await api.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert answer.usage is not None
        with pytest.raises(openai.RateLimitError) as spent:
            await api.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=40)
        assert 1 <= int(spent.value.response.headers["retry-after"]) <= answer.usage.total_tokens + 1


async def test_overload_is_answered_at_once_and_who_waits_is_served(tmp_path: Path) -> None:
    limits = AdmissionLimits(max_running=2, max_waiting=3)
    async with guarded(tmp_path, limits) as server:
        router = await server.add(answering(server, ANSWER, step_s=0.005))
        async with client(server, KEYS["free"]) as api:
            asked = [api.chat.completions.create(model=MODEL, messages=MESSAGES) for _ in range(12)]
            results = await asyncio.gather(*asked, return_exceptions=True)
        served = [result for result in results if not isinstance(result, BaseException)]
        refused = [result for result in results if isinstance(result, openai.InternalServerError)]
        assert [answer.choices[0].message.content for answer in served] == [ANSWER] * 5
        assert len(refused) == 7
        assert {(error.status_code, error.code) for error in refused} == {(503, "overloaded")}
        assert all(int(error.response.headers["retry-after"]) >= 1 for error in refused)
        assert len(router.generates) == 5
        # The first token of the last one served came after two whole answers: that wait is part of what is measured.
        sums = parse_sums(server.context.exposition.render().decode())
        assert (
            sums["outrider_time_to_first_token_seconds_sum"]
            > 1.2 * sums["outrider_e2e_request_latency_seconds_sum"] / 5
        )
        assert sums["outrider_num_requests_waiting"] == sums["outrider_num_requests_running"] == 0


async def test_choices_take_places_of_their_own(tmp_path: Path) -> None:
    async with guarded(tmp_path, AdmissionLimits(max_running=3, max_waiting=9)) as server:
        router = await server.add(answering(server, ANSWER, step_s=0.005))
        async with client(server, KEYS["free"]) as api:
            asked = [api.chat.completions.create(model=MODEL, messages=MESSAGES, n=2) for _ in range(4)]
            answering_all = asyncio.gather(*asked)
            most = 0
            while not answering_all.done():
                most = max(most, router.num_sessions)
                await asyncio.sleep(0.002)
            answers = await answering_all
        assert most == 2  # another two would make four
        assert all(choice.message.content == ANSWER for answer in answers for choice in answer.choices)


async def test_a_wait_that_takes_too_long_is_a_503_and_a_client_that_leaves_it_is_forgotten(tmp_path: Path) -> None:
    limits = AdmissionLimits(max_running=1, max_waiting=1, max_wait_s=0.3)
    async with guarded(tmp_path, limits) as server:
        router = await server.add(answering(server, ANSWER, step_s=0.05))
        async with client(server, KEYS["free"]) as api:
            stream = await api.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            leaving = asyncio.create_task(api.chat.completions.create(model=MODEL, messages=MESSAGES))
            await asyncio.sleep(0.1)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await asyncio.sleep(0.05)
            with pytest.raises(openai.InternalServerError, match="no place within"):
                await api.chat.completions.create(model=MODEL, messages=MESSAGES)
            await stream.close()
            await until(lambda: router.num_sessions == 0)
            assert (await api.chat.completions.create(model=MODEL, messages=MESSAGES)).choices


async def upload(server: RestServer | Server, path: str, headers: str, pause_s: float) -> bytes:
    """What comes back while a chunked body is sent that never ends; returns once the server has hung up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
    writer.write(f"POST {path} HTTP/1.1\r\nhost: x\r\n{headers}transfer-encoding: chunked\r\n\r\n".encode())
    received = b""

    async def read() -> None:
        nonlocal received
        with contextlib.suppress(ConnectionError):
            while part := await reader.read(65536):
                received += part

    async with asyncio.timeout(30):
        reading = asyncio.create_task(read())
        while not reading.done():
            with contextlib.suppress(ConnectionError):
                writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
                await writer.drain()
            await asyncio.wait([reading], timeout=pause_s)
    writer.close()
    return received


@pytest.mark.parametrize(
    ("key", "pause_s", "status"),
    [("few", 0.001, b"413"), ("few", 0.5, b"408"), (None, 0.001, b"401")],
    ids=["endless", "slow", "a stranger's"],
)
async def test_a_body_that_never_ends_is_answered_and_hung_up_on(
    tmp_path: Path, key: str | None, pause_s: float, status: bytes
) -> None:
    async with guarded(tmp_path, max_body_bytes=5000, max_body_s=0.3) as server:
        headers = f"authorization: Bearer {KEYS[key]}\r\n" if key else ""
        for _ in range(2):  # a tenant with one place gets it back
            received = await upload(server, "/v1/completions", headers, pause_s)
            assert received.startswith(b"HTTP/1.1 " + status)
            assert set(json.loads(received.rpartition(b"\r\n\r\n")[2])["error"]) == {"message", "type", "param", "code"}


async def test_a_body_that_says_it_is_too_large_is_told_so_where_there_is_no_room_either(tmp_path: Path) -> None:
    headers = {"authorization": f"Bearer {KEYS['few']}"}
    async with (
        guarded(tmp_path, max_body_bytes=5000) as server,
        httpx.AsyncClient(base_url=server.url, headers=headers) as http,
    ):
        _, held = await asyncio.open_connection("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: {headers['authorization']}\r\n"
        held.write(f"{head}content-length: 9\r\n\r\n".encode())  # the tenant's only place
        async with asyncio.timeout(30):
            while (response := await http.post("/v1/completions", content=b"{}")).status_code != 429:
                assert response.status_code == 400
        assert (await http.post("/v1/completions", content=b" " * 5001)).status_code == 413
        held.close()


async def test_a_chunked_body_within_bounds_is_served(server: RestServer) -> None:
    await server.add(answering(server, ANSWER))
    body = json.dumps({"model": MODEL, "prompt": "the"}).encode()

    async def in_pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 7):
            yield body[at : at + 7]

    headers = {"authorization": f"Bearer {KEYS['few']}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as http:
        assert (await http.post("/v1/completions", content=in_pieces())).status_code == 200


async def test_heads_are_bounded(server: RestServer) -> None:
    async with httpx.AsyncClient(base_url=server.url) as http:
        for headers, path in (({"x-long": "x" * 40_000}, "/health"), ({}, "/v1/models/" + "x" * 40_000)):
            response = await http.get(path, headers=headers)
            assert response.status_code in (400, 414, 431)  # uvicorn's own parser may have a lower bound


async def test_the_deployments_limits_are_400s(tmp_path: Path) -> None:
    async with guarded(tmp_path, max_prompt_tokens=30, max_output_tokens=5) as server:
        router = await server.add(answering(server, ANSWER))
        async with client(server, KEYS["free"]) as api:
            for param, asked in (("max_tokens", {"max_tokens": 6}), ("prompt", {"prompt": "word " * 40})):
                with pytest.raises(openai.BadRequestError) as refused:
                    await api.completions.create(**{"model": MODEL, "prompt": "the", "max_tokens": 5, **asked})  # type: ignore
                assert refused.value.param == param
            assert not router.generates
            open_answer = await api.chat.completions.create(model=MODEL, messages=MESSAGES)
            assert open_answer.usage.completion_tokens == 5  # type: ignore[union-attr]


async def test_without_keys_everything_is_open(tmp_path: Path) -> None:
    async with serve(tmp_path) as server:
        await server.add(answering(server, ANSWER))
        async with httpx.AsyncClient(base_url=server.url) as http:
            response = await http.post("/v1/chat/completions", json={"model": MODEL, "messages": MESSAGES})
            assert response.status_code == 200


@pytest.fixture(autouse=True)
def _show_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="outrider")
