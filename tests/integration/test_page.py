"""The page at `/` in a real browser, with a fake router behind the service."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.ingress.access import Access
from deployments.ingress.fake_router import FakeRouter
from deployments.ingress.generation import FlowLimits
from deployments.ingress.tenants import ApiKey, KeyRing, Tenant, Tenants, hash_of, new_key
from deployments.messages import Failure
from deployments.watched import Watched
from tests.support.browser import Page, open_page, require_chromium, run_chromium
from tests.support.rest import MODEL, plain_ids
from tests.support.rest_server import RestServer, serve

pytestmark = pytest.mark.system

ANSWER = "zebras <b>graze</b> & rest 🙂\nbehind quartz walls, grüße aus köln; " * 2 + "quietly"
FLOW = FlowLimits(recovery_timeout_s=1.5, first_backoff_s=0.005, max_backoff_s=0.02)
KINDS = {"accepted", "recovered", "bonus", "plain"}
IS_DONE = "!document.getElementById('send').disabled"
CONTENT = "document.getElementById('answer').textContent"
SPANS = "[...document.querySelectorAll('#answer span')].map((span) => [span.className, span.textContent])"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_chromium(require_chromium(), tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RestServer]:
    async with serve(tmp_path, FLOW) as server:
        yield server


@pytest.fixture
async def page(browser: str, server: RestServer) -> AsyncIterator[Page]:
    async with open_page(browser, f"{server.url}/") as page:
        yield page


async def add_router(server: RestServer, text: str = ANSWER, step_s: float = 0.0) -> FakeRouter:
    """Answers with the text and some full stops, so many that all four kinds come up.

    Its first commit has one token and no draft, the others accept four tokens of four, the last one two.
    """
    tokens = plain_ids(server.context, text)
    tokens += plain_ids(server.context, ".") * ((3 - (len(tokens) - 1)) % 5)
    router = FakeRouter(reply=lambda generate: tokens, tokens_per_commit=5, lookahead=4, step_s=step_s)
    return await server.add(router)


async def text_of(page: Page, element: str) -> str:
    text = await page.evaluate(f"document.getElementById({json.dumps(element)}).innerText")
    assert isinstance(text, str)
    return text


async def post(server: RestServer, prompt: str, **options: object) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "temperature": 0, **options}
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
        return await http.post("/v1/chat/completions", json=body)


async def streamed(server: RestServer, prompt: str) -> list[dict[str, Any]]:
    options = {"include_usage": True, "include_token_kinds": True}
    response = await post(server, prompt, stream=True, stream_options=options)
    return [json.loads(block[6:]) for block in response.text.split("\n\n")[:-2]]


async def test_an_answer_is_the_apis_coloured_by_kind(server: RestServer, page: Page) -> None:
    router = await add_router(server)
    await page.type("hello")
    await page.press("Enter", "shift")
    await page.type("world")
    await page.press("Enter")
    await page.until(IS_DONE)
    spans = await page.evaluate(SPANS)

    chunks = await streamed(server, "hello\nworld")
    parts = [part for chunk in chunks for part in chunk.get("outrider", {"segments": []})["segments"]]
    assert spans == [[part["kind"], part["text"]] for part in parts]
    assert {kind for kind, _ in spans} == KINDS
    whole = (await post(server, "hello\nworld")).json()
    content = whole["choices"][0]["message"]["content"]
    assert content.startswith(ANSWER)
    assert await page.evaluate(CONTENT) == content
    assert router.generates[0].tokens == router.generates[1].tokens  # the prompt, its line break included

    summary = await text_of(page, "summary")
    assert f"acceptance length {whole['metrics']['speculative_decoding']['mean_acceptance_length']:.2f}" in summary
    assert re.search(r"[1-9][0-9]*\.[0-9] tokens/s", summary)
    assert f"{whole['usage']['completion_tokens']} tokens" in summary
    assert await text_of(page, "error") == ""
    assert page.errors == []
    assert {url for url in page.requested if not url.startswith(("data:", f"{server.url}/"))} == set()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_each_kind_has_its_own_colour_and_a_legend(server: RestServer, page: Page, scheme: str) -> None:
    await add_router(server)
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await page.type("hello")
    await page.click("#send")
    await page.until(IS_DONE)
    colour = "[...document.querySelectorAll('%s span')].map((s) => [s.className, getComputedStyle(s).backgroundColor])"
    answer, legend = await page.evaluate(colour % "#answer"), await page.evaluate(colour % ".legend")
    assert dict(answer) == dict(legend)
    assert len(set(dict(legend).values()) - {"rgba(0, 0, 0, 0)"}) == len(KINDS)  # none is transparent
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert (await page.evaluate(lightness) > 128) == (scheme == "light")


async def test_a_refusal_is_shown_and_the_next_request_works(server: RestServer, page: Page) -> None:
    router = await add_router(server)
    accept = router.refusal
    router.refusal = lambda generate: Failure(request=generate.request, code="overloaded", detail="<i>full</i>")
    refused = await post(server, "hello")
    assert refused.status_code >= 400
    await page.type("hello")
    await page.press("Enter")
    await page.until(IS_DONE)
    assert await text_of(page, "error") == refused.json()["error"]["message"]
    assert await text_of(page, "summary") == ""
    # The browser itself reports the status; the page adds nothing to it.
    (reported,) = page.errors
    assert str(refused.status_code) in reported

    router.refusal = accept
    await page.click("#send")
    await page.until(IS_DONE)
    assert (await page.evaluate(CONTENT)).startswith(ANSWER)
    assert await text_of(page, "error") == ""


async def test_a_failure_in_mid_stream_keeps_the_text_and_is_shown(server: RestServer, page: Page) -> None:
    router = await add_router(server, ANSWER * 20, step_s=0.05)
    await page.type("hello")
    await page.press("Enter")
    await page.until(f"{SPANS}.length > 3")
    for link in list(router.links):
        link.close()
    await page.until(IS_DONE)
    assert "send the request again" in await text_of(page, "error")
    assert len(await page.evaluate(SPANS)) > 3
    assert page.errors == []


async def test_a_server_out_of_reach_is_shown(page: Page) -> None:
    offline = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await page.call("Network.emulateNetworkConditions", **offline)
    await page.type("hello")
    await page.press("Enter")
    await page.until(IS_DONE)
    assert "out of reach" in await text_of(page, "error")


@pytest.mark.parametrize("way", ["button", "key"])
async def test_stopping_cancels_at_the_router(server: RestServer, page: Page, way: str) -> None:
    router = await add_router(server, ANSWER * 20, step_s=0.05)
    await page.type("hello")
    await page.press("Enter", "ctrl")
    await page.until(f"{SPANS}.length > 3")
    assert router.num_sessions == 1
    await (page.click("#stop") if way == "button" else page.press("Escape"))
    await page.until(IS_DONE)
    async with asyncio.timeout(60):
        while router.num_sessions > 0:
            await asyncio.sleep(0.01)
    assert len(router.cancels) == 1
    assert await text_of(page, "summary") == "stopped"
    assert await text_of(page, "error") == ""
    assert page.errors == []


async def test_a_key_is_asked_for_where_one_is_needed(browser: str, tmp_path: Path) -> None:
    key = new_key()
    tenants = Tenants(tenants=(Tenant(name="a", keys=(ApiKey(sha256=hash_of(key)),)),))
    access = Access(Watched([], lambda: KeyRing(tenants)))
    async with serve(tmp_path, access=access) as server, open_page(browser, f"{server.url}/") as page:
        await add_router(server)
        assert await page.evaluate("document.getElementById('key').checkVisibility()") is False
        await page.type("hello")
        await page.press("Enter")
        await page.until("document.activeElement.id === 'key'")
        await page.until("document.getElementById('error').textContent.includes('API key')")
        await page.type(key)
        await page.press("Enter")
        await page.until(f"{CONTENT}.startsWith('zebras') && {IS_DONE}")
        assert await text_of(page, "error") == ""


async def test_an_empty_prompt_sends_nothing(server: RestServer, page: Page) -> None:
    router = await add_router(server)
    await page.type("  ")
    await page.press("Enter")
    assert await page.evaluate(IS_DONE)
    assert router.generates == []
    assert not any("/v1/" in url for url in page.requested)


async def test_only_pages_of_allowed_origins_read_answers(browser: str, server: RestServer, tmp_path: Path) -> None:
    """A page of one server asks another one, as OpenAI's client does in a browser."""
    async with serve(tmp_path, allowed_origins=(server.url,)) as other, serve(tmp_path) as closed:
        for each in (other, closed):
            await add_router(each)
        async with open_page(browser, f"{server.url}/version") as page:
            answer = await page.evaluate(asking(other))
            refusal = await page.evaluate(asking(other, temperature=9))
            with pytest.raises(AssertionError, match="Failed to fetch"):
                await page.evaluate(asking(closed))
    assert answer["choices"][0]["message"]["content"].startswith(ANSWER)
    assert refusal["error"]["param"] == "temperature"
    assert not closed.routers[0].generates


def asking(server: RestServer, **options: object) -> str:
    """A script that gives the parsed answer; its headers make the browser ask first whether it may."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, **options}
    headers = {"content-type": "application/json", "authorization": "Bearer x", "x-stainless-lang": "js"}
    asked = json.dumps({"method": "POST", "headers": headers, "body": json.dumps(body)})
    return f"fetch('{server.url}/v1/chat/completions', {asked}).then((response) => response.json())"
