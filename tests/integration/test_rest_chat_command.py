"""`outrider chat` against the service on a real port."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from cluster.ports import free_ports
from deployments.cli import chat
from deployments.ingress.access import Access
from deployments.ingress.fake_router import FakeRouter
from deployments.ingress.tenants import ApiKey, KeyRing, Tenant, Tenants, hash_of, new_key
from deployments.watched import Watched
from tests.support.rest import plain_ids
from tests.support.rest_server import RestServer, serve
from tests.support.tiny_tokenizer import END_OF_TURN_ID

ANSWER = "zebras graze 🙂 behind quartz walls."


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RestServer]:
    async with serve(tmp_path) as server:
        tokens = [*plain_ids(server.context, ANSWER), END_OF_TURN_ID]
        await server.add(FakeRouter(reply=lambda generate: tokens))
        yield server


async def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    return await asyncio.to_thread(chat.run, parser.parse_args(arguments))


async def test_it_streams_an_answer_and_ends_with_figures(
    server: RestServer, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--temperature", "0.5", "--seed", "3", "--max-tokens", "400", "--num-speculative-tokens", "2")
    assert await run("hello", "--url", server.url, *options) == 0
    answer, figures = capsys.readouterr().out.strip().split("\n")
    assert answer == ANSWER
    assert "acceptance length" in figures
    assert "tokens/s" in figures
    (generate,) = server.routers[0].generates
    assert (generate.params.temperature, generate.params.seed, generate.num_speculative_tokens) == (0.5, 3, 2)


async def test_a_key_comes_from_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    tenants = Tenants(tenants=(Tenant(name="a", keys=(ApiKey(sha256=hash_of(key)),)),))
    async with serve(tmp_path, access=Access(Watched([], lambda: KeyRing(tenants)))) as server:
        tokens = [*plain_ids(server.context, ANSWER), END_OF_TURN_ID]
        await server.add(FakeRouter(reply=lambda generate: tokens))
        assert await run("hello", "--url", server.url) == 1
        assert "needs an API key" in capsys.readouterr().err
        monkeypatch.setenv("OUTRIDER_API_KEY", key)
        assert await run("hello", "--url", server.url) == 0
        assert ANSWER in capsys.readouterr().out


async def test_colours_show_where_tokens_came_from_on_a_terminal(
    server: RestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert await run("hello", "--url", server.url) == 0
    assert "\x1b[32m" in terminal.getvalue()
    assert "\x1b[33m" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.truncate(0)
    assert await run("hello", "--url", server.url) == 0
    assert "\x1b" not in terminal.getvalue()


async def test_a_conversation_remembers_and_ends_with_ctrl_d(
    server: RestServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = iter(["hello", "", "and then?"])

    def read(prompt: str) -> str:
        try:
            return next(prompts)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    assert await run("--url", server.url) == 0
    assert capsys.readouterr().out.count(ANSWER) == 2
    first, second = server.routers[0].generates
    assert len(second.tokens) > len(first.tokens) + len(plain_ids(server.context, ANSWER))


async def test_ctrl_c_ends_an_answer_but_not_the_conversation(
    server: RestServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = iter(["hello", "again"])
    presses = iter([True])

    def read(prompt: str) -> str:
        try:
            return next(prompts)
        except StopIteration:
            raise KeyboardInterrupt from None

    def show(session: chat.ChatSession, text: str, kind: str) -> None:
        if next(presses, False):
            raise KeyboardInterrupt
        session.out.write(text)

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(chat.ChatSession, "_print", show)
    assert await run("--url", server.url) == 0
    assert capsys.readouterr().out.count(ANSWER) == 1
    assert len(server.routers[0].generates) == 2


async def test_a_refusal_is_shown_and_fails(server: RestServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run("hello", "--url", server.url, "--max-tokens", "100000") == 1
    assert "max_tokens" in capsys.readouterr().err


async def test_nothing_at_the_address_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert await run("hello", "--url", f"http://127.0.0.1:{port}") == 1
    said = capsys.readouterr().err
    assert f"nothing answers at http://127.0.0.1:{port} (" in said
    assert "refused); `make serve` starts" in said
    assert await run("hello", "--url", "127.0.0.1:8000") == 1
    assert "not an http address" in capsys.readouterr().err


def test_another_servers_answer_is_shown_without_kinds() -> None:
    chunks = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": "zebras "}}]},
        {"choices": [{"delta": {"content": "graze"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"completion_tokens": 2}},
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        assert "speculation" not in json.loads(request.content)
        lines = [*(f"data: {json.dumps(chunk)}" for chunk in chunks), "data: [DONE]", ""]
        return httpx.Response(200, text="\n\n".join(lines))

    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    out = io.StringIO()
    with httpx.Client(base_url="http://elsewhere", transport=httpx.MockTransport(answer)) as client:
        session = chat.ChatSession(client, parser.parse_args(["hello"]), out, "other", [])
        session.ask("hello")
    text, figures = out.getvalue().strip().split("\n")
    assert text == "zebras graze"
    assert "2 tokens" in figures
    assert session.messages[-1] == {"role": "assistant", "content": "zebras graze"}
