"""The front door of `outrider serve`, with keys and mutual TLS: a flood, rotated keys, and no secret in any log."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from deployments.ingress.tenants import hash_of, new_key
from tests.integration.test_rest_front_door import upload
from tests.support.certificates import issue, make_authority, write_files
from tests.support.endpoint_metrics import metric, wait_for_metric
from tests.support.serve_process import Server, processes_below, running_server, stopped

pytestmark = pytest.mark.system

ANY_KEY, FEW_KEY, WRONG_KEY = new_key(), new_key(), new_key()
PROMPT_MARK = "quetzalcoatlus-4711"
NUM_FLOOD, NUM_OF_FEW, NUM_WRONG = 500, 40, 8
MAX_RUNNING, MAX_WAITING = 16, 60
TIMEOUT_S = 300.0


class Outcome(NamedTuple):
    """How one request ended; `text` is None for a refusal."""

    status: int
    text: str | None
    retry_after: str | None
    code: str | None


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    tenants = [
        {"name": "any", "keys": [{"sha256": hash_of(ANY_KEY)}]},
        {"name": "few", "keys": [{"sha256": hash_of(FEW_KEY)}], "max_concurrent_requests": 2},
    ]
    (folder / "keys.yaml").write_text(yaml.safe_dump({"tenants": tenants}))
    authority = make_authority(1)
    files = write_files(folder / "streams", authority, issue(authority, 1))
    settings: dict[str, object] = {
        "ingress": {
            "keys_file": str(folder / "keys.yaml"),
            "max_running_requests": MAX_RUNNING,
            "max_waiting_requests": MAX_WAITING,
            "max_wait_s": TIMEOUT_S,
        },
        "verifier": {"health_check_timeout_s": TIMEOUT_S},
        "streams": {
            "port_range": [23_400, 23_499],
            "tls": {name: str(getattr(files, name)) for name in ("ca_file", "cert_file", "key_file")},
        },
    }
    yield from running_server(folder, settings)


def body(max_tokens: int = 12, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Tell a story about {PROMPT_MARK} and the sea."}]
    return {"model": "pocket", "messages": messages, "max_tokens": max_tokens, "temperature": 0.8, "seed": 7, **fields}


async def ask(http: httpx.AsyncClient, key: str, asked: dict[str, Any]) -> Outcome:
    """Ask, and read the answer to its end, which a stream must have."""
    headers = {"authorization": f"Bearer {key}"}
    async with http.stream("POST", "/v1/chat/completions", json=asked, headers=headers) as response:
        text = (await response.aread()).decode()
    if response.status_code != httpx.codes.OK:
        error = json.loads(text)["error"]
        return Outcome(response.status_code, None, response.headers.get("retry-after"), error["code"])
    if not asked.get("stream"):
        return Outcome(200, json.loads(text)["choices"][0]["message"]["content"], None, None)
    *events, last, end = text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    return Outcome(200, "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks), None, None)


async def announce(server: Server, key: str, num_bytes: int) -> bytes:
    """What comes back on the head of a request with so large a body, of which nothing is sent yet."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = ("POST /v1/completions HTTP/1.1", "host: x", f"authorization: Bearer {key}", f"content-length: {num_bytes}")
    writer.write(("\r\n".join(head) + "\r\n\r\n").encode())
    try:
        return await reader.readuntil(b'"code":"request_too_large"}}')
    finally:
        writer.close()


def client(server: Server) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=server.url, timeout=httpx.Timeout(TIMEOUT_S), limits=limits)


async def test_a_flood_is_served_or_told_when_to_come_back_and_admitted_streams_go_on(guarded: Server) -> None:
    async with client(guarded) as http:
        long = body(900, stream=True, ignore_eos=True)
        expected_long, expected = (await ask(http, ANY_KEY, long)).text, (await ask(http, ANY_KEY, body())).text
        assert expected_long
        assert expected
        before = [asyncio.create_task(ask(http, ANY_KEY, long)) for _ in range(4)]
        await wait_for_metric(guarded, "outrider_num_requests_running", lambda running: running == 4)
        (verifier,) = guarded.replicas("verifier")
        async with asyncio.timeout(TIMEOUT_S):
            # Nothing is answered until all have come: it is a flood for a verifier of whatever speed.
            with stopped(verifier):
                flood = [ask(http, ANY_KEY, body(stream=number % 2 == 0)) for number in range(NUM_FLOOD)]
                few = [ask(http, FEW_KEY, body()) for _ in range(NUM_OF_FEW)]
                flooding = [asyncio.create_task(asked) for asked in (*flood, *few)]
                strangers = [ask(http, WRONG_KEY, body(stream=number % 2 == 0)) for number in range(NUM_WRONG)]
                oversized = [announce(guarded, ANY_KEY, 5 << 20) for _ in range(NUM_WRONG)]
                wrong, large = await asyncio.gather(asyncio.gather(*strangers), asyncio.gather(*oversized))
                while sum(task.done() for task in flooding) < len(flooding) - MAX_RUNNING - MAX_WAITING:
                    await asyncio.sleep(0.05)
            outcomes, admitted = await asyncio.gather(*flooding), await asyncio.gather(*before)
        assert {(outcome.status, outcome.code) for outcome in wrong} == {(401, "invalid_api_key")}
        assert {answer[:13] for answer in large} == {b"HTTP/1.1 413 "}
        assert [outcome.text for outcome in admitted] == [expected_long] * 4
        counts = Counter((outcome.status, outcome.code) for outcome in outcomes)
        print(f"a flood of {NUM_FLOOD} and {NUM_OF_FEW}: {dict(counts)}")
        assert set(counts) <= {(200, None), (429, "rate_limit_exceeded"), (503, "overloaded")}
        assert counts[200, None] >= MAX_RUNNING
        assert counts[503, "overloaded"] > 0
        assert all(outcome.text == expected for outcome in outcomes if outcome.status == 200)
        assert all(int(outcome.retry_after or 0) >= 1 for outcome in outcomes if outcome.status != 200)
        few_outcomes = Counter(outcome.status for outcome in outcomes[NUM_FLOOD:])
        assert few_outcomes[429] + few_outcomes[503] > 0
        assert (await ask(http, FEW_KEY, body())).text == expected
        await wait_for_metric(guarded, "outrider_num_requests_running", lambda running: running == 0)


@pytest.mark.parametrize(("key", "status"), [(FEW_KEY, b"413"), (WRONG_KEY, b"401")], ids=["too large", "a stranger's"])
async def test_a_body_that_never_ends_is_hung_up_on_behind_haproxy(guarded: Server, key: str, status: bytes) -> None:
    for _ in range(3):
        received = await upload(guarded, "/v1/completions", f"authorization: Bearer {key}\r\n", 0.0)
        # Whoever goes on sending to a closed connection may lose the answer to the reset that this earns.
        assert not received or received.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("is_whole", [True, False], ids=["in one piece", "head and body apart"])
async def test_an_answer_whose_client_has_left_ends(guarded: Server, is_whole: bool) -> None:
    made_before = await metric(guarded, "outrider_generation_tokens_total")
    asked = json.dumps(body(900, ignore_eos=True)).encode()
    lines = ("POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {ANY_KEY}")
    head = "\r\n".join((*lines, "content-type: application/json", f"content-length: {len(asked)}", "", "")).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", guarded.port)
    if is_whole:
        writer.write(head + asked)
    else:
        writer.write(head)
        await asyncio.sleep(0.1)
        writer.write(asked)
    await wait_for_metric(guarded, "outrider_num_requests_running", lambda running: running == 1)
    writer.close()
    await wait_for_metric(guarded, "outrider_num_requests_running", lambda running: running == 0)
    assert await metric(guarded, "outrider_generation_tokens_total") - made_before < 900


async def test_a_chunked_body_that_ends_too_late_is_answered_behind_haproxy(guarded: Server) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range((4 << 20) // 1024 + 1):
            yield b" " * 1024

    async with client(guarded) as http:
        headers = {"authorization": f"Bearer {ANY_KEY}", "content-type": "application/json"}
        response = await http.post("/v1/completions", content=parts(), headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


async def test_what_a_lost_ingress_had_begun_is_refused_in_openais_shape_and_new_requests_wait(guarded: Server) -> None:
    """HAProxy answers for the ingress that is gone, or hangs up where its connection to it had served before.

    That is HTTP's way to have a client ask again. Who comes while there is no ingress is kept until there is one.
    """
    async with client(guarded) as http, asyncio.timeout(TIMEOUT_S):
        headers = {"authorization": f"Bearer {ANY_KEY}"}
        long = body(900, ignore_eos=True)
        begun = [
            asyncio.create_task(http.post("/v1/chat/completions", json=long, headers=headers))
            for _ in range(MAX_RUNNING)
        ]
        while await metric(guarded, "outrider_num_requests_running") < MAX_RUNNING:
            assert not any(task.done() for task in begun), "the answers must still be under way"
            await asyncio.sleep(0.05)
        (ingress,) = guarded.replicas("ingress")
        os.kill(ingress, signal.SIGKILL)
        outcomes = await asyncio.gather(*begun, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, httpx.Response)]
        print(f"{len(refused)} of {len(outcomes)} refused")
        assert all(isinstance(o, httpx.Response | httpx.RemoteProtocolError) for o in outcomes), outcomes
        assert {response.status_code for response in refused} <= {503}
        assert {response.json()["error"]["code"] for response in refused} <= {"unavailable"}
        assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
        while not await is_served(http):
            await asyncio.sleep(0.2)


async def is_served(http: httpx.AsyncClient) -> bool:
    """Whether a request is answered; one that is not is refused in our shape, or its connection is closed."""
    try:
        outcome = await ask(http, ANY_KEY, body())
    except httpx.TransportError:
        return False
    assert outcome.status in (200, 503)
    return outcome.status == 200


async def until_served(http: httpx.AsyncClient, key: str) -> None:
    """The file of keys is looked at every second, or later on a busy machine."""
    async with asyncio.timeout(TIMEOUT_S):
        while (await ask(http, key, body())).status != 200:
            await asyncio.sleep(0.2)


async def test_keys_are_rotated_on_a_running_server(guarded: Server) -> None:
    file = guarded.folder / "keys.yaml"
    before, rotated = file.read_text(), new_key()
    async with client(guarded) as http:
        assert (await ask(http, rotated, body())).code == "invalid_api_key"
        file.write_text(before.replace(hash_of(ANY_KEY), hash_of(rotated)))
        await until_served(http, rotated)
        assert (await ask(http, ANY_KEY, body())).code == "invalid_api_key"
        file.write_text(before)
        await until_served(http, ANY_KEY)


async def test_keys_prompts_and_outputs_are_in_no_log(guarded: Server) -> None:
    headers = {"authorization": f"Bearer {ANY_KEY}"}
    async with client(guarded) as http:
        output = (await ask(http, ANY_KEY, body(100))).text
        assert output
        for key, asked, status in (
            (WRONG_KEY, body(), 401),
            (ANY_KEY, body(temprature=1), 400),
            (ANY_KEY, body(temperature=9), 400),
            (ANY_KEY, {**body(), "messages": [{"role": "user", "content": PROMPT_MARK * 5000}]}, 400),
            (ANY_KEY, {**body(), "messages": [{"role": "robot", "content": PROMPT_MARK}]}, 400),
            (ANY_KEY, {**body(), "model": "other"}, 404),
        ):
            assert (await ask(http, key, asked)).status == status
        spoilt = await http.post("/v1/completions", content=f'{{"prompt": "{PROMPT_MARK}', headers=headers)
        assert spoilt.status_code == 400
        leaving = asyncio.create_task(ask(http, ANY_KEY, body(150, stream=True)))
        await asyncio.sleep(0.3)
        leaving.cancel()
        # Whatever a lost verifier, a lost drafter and the failover have to say is said about this prompt.
        running = [asyncio.create_task(ask(http, ANY_KEY, body(150, stream=True))) for _ in range(4)]
        await asyncio.sleep(0.3)
        for role in ("drafter", "verifier"):
            for victim in guarded.replicas(role):
                os.kill(victim, signal.SIGKILL)
        await asyncio.gather(*running, leaving, return_exceptions=True)
    logs = {path: path.read_text(errors="replace") for path in session_folder(guarded).rglob("*") if path.is_file()}
    logs[guarded.folder / "serve.log"] = guarded.log
    assert sum("ingress" in path.name for path in logs) > 0
    assert sum(len(text) for text in logs.values()) > 10_000
    secrets = {"key": ANY_KEY, "wrong key": WRONG_KEY, "prompt": PROMPT_MARK, "output": distinctive(output)}
    found = [(what, str(path)) for what, secret in secrets.items() for path, text in logs.items() if secret in text]
    assert not found


def session_folder(server: Server) -> Path:
    """The logs of this very Ray session."""
    for line in processes_below(server.process.pid).values():
        if match := re.search(r"/\S+/session_[0-9]\S*?(?=/|\s|$)", line):
            return Path(match[0]) / "logs"
    raise AssertionError("no process names its session")


def distinctive(text: str) -> str:
    """The longest stretch of plain letters and spaces, which no log would write in another way."""
    stretch = max(re.findall(r"[A-Za-z ]+", text), key=len).strip()
    assert len(stretch) >= 10, text
    return stretch
