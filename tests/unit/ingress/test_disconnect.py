"""A client that leaves: whatever the server was doing for it ends at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from deployments.ingress.app import create_app
from deployments.ingress.sse import ClientGone, until_disconnect
from evaluation.load.metrics import parse_sums
from tests.support.rest import MODEL, ScriptedClient, make_context, plain_ids


class Browser:
    """One bare ASGI connection that can be dropped."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self.num_sends: int | None = None
        self._body: bytes | None = json.dumps(body).encode()

    async def receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if len(self.sent) == self.num_sends:
            raise OSError("broken pipe")
        self.sent.append(message)


def scope() -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [],
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
    }


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("hangs_after", [0, 2], ids=["before-the-first-token", "in-the-middle"])
async def test_leaving_ends_the_generation_at_once(tmp_path: Path, stream: bool, hangs_after: int) -> None:
    client = ScriptedClient(hangs_after=hangs_after)
    context = make_context(tmp_path, client)
    client.tokens = plain_ids(context, "one two three")
    browser = Browser({"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
    served = asyncio.ensure_future(create_app(context)(scope(), browser.receive, browser.send))
    await asyncio.wait_for(client.reached_hang.wait(), 10)
    assert client.num_open == 1
    browser.gone.set()
    await asyncio.wait_for(served, 10)
    assert client.num_open == 0
    sums = parse_sums(context.exposition.render().decode())
    for name in ("num_requests_running", "num_requests_waiting", "request_success_total"):
        assert sums[f"outrider_{name}"] == 0


@pytest.mark.parametrize("num_sends", [1, 3])
async def test_a_connection_that_breaks_on_sending_ends_the_generation(tmp_path: Path, num_sends: int) -> None:
    client = ScriptedClient()
    context = make_context(tmp_path, client)
    client.tokens = plain_ids(context, "one two three")
    browser = Browser({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hi"}]})
    browser.num_sends = num_sends
    await asyncio.wait_for(create_app(context)(scope(), browser.receive, browser.send), 10)
    assert len(browser.sent) == num_sends
    assert client.num_open == 0
    sums = parse_sums(context.exposition.render().decode())
    assert sums["outrider_request_failure_total"] == 0  # the client left: nothing failed


async def test_a_slow_client_holds_the_generation_back(tmp_path: Path) -> None:
    client = ScriptedClient()
    context = make_context(tmp_path, client)
    client.tokens = plain_ids(context, "one two three four five six")
    browser = Browser({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hi"}]})
    gate, blocked = asyncio.Event(), asyncio.Event()
    taken = context.metrics.generation_tokens

    async def slow_send(message: dict[str, Any]) -> None:
        browser.sent.append(message)
        if len(browser.sent) > 3:
            blocked.set()
            await gate.wait()

    served = asyncio.ensure_future(create_app(context)(scope(), browser.receive, slow_send))
    await asyncio.wait_for(blocked.wait(), 10)
    await asyncio.sleep(0.02)
    assert 0 < taken.value < len(client.tokens) // 2
    gate.set()
    await asyncio.wait_for(served, 10)
    assert taken.value == len(client.tokens)


async def test_until_disconnect_returns_what_the_work_returns_or_raises() -> None:
    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def work(result: int) -> int:
        if result < 0:
            raise ValueError(result)
        return result

    async def long_work() -> int:
        await asyncio.sleep(60)
        return 0

    assert await until_disconnect(never, work(3)) == 3
    with pytest.raises(ValueError, match="-1"):
        await until_disconnect(never, work(-1))
    with pytest.raises(ClientGone):
        await until_disconnect(gone, long_work())
