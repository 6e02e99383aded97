"""Real replicas killed under load: every answer is the reference's, and bad requests disturb nobody."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from deployments.messages import SamplingParams, Token
from tests.support.endpoint_metrics import wait_for_metric
from tests.support.equality import Reference
from tests.support.pocket import TARGET, safe_prompts, tokenizer
from tests.support.serve_process import Server, running_server
from tests.support.steady_load import answers_around

pytestmark = pytest.mark.system

NUM_TOKENS = 48
PARAMS = [SamplingParams(), SamplingParams(temperature=0.8, seed=2**40 + 3)]
TWO_OF_EACH = {role: {"num_replicas": 2} for role in ("router", "verifier", "drafter")}
BAD_BODIES: tuple[tuple[str, object], ...] = (
    ("max_tokens", {"max_tokens": -1}),
    ("temperature", {"temperature": "hot"}),
    ("speculation.lookahead", {"speculation": {"lookahead": 3}}),
    ("speculation.num_speculative_tokens", {"speculation": {"num_speculative_tokens": 10_000}}),
    ("model", {"model": "no-such-model"}),
    ("prompt", {"prompt": list(range(5, 4000)) * 3}),
    ("prompt", {"prompt": [5, 10**9]}),
    ("logit_bias.5", {"logit_bias": {"5": 1000}}),
)

Case = tuple[tuple[Token, ...], SamplingParams, str]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    reference = Reference(TARGET)
    safe = safe_prompts(reference, PARAMS, 16, NUM_TOKENS)
    return [(prompt, params, tokenizer().decode(output, skip_special_tokens=True)) for prompt, params, output in safe]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from running_server(tmp_path_factory.mktemp("pocket"), TWO_OF_EACH)


def body(prompt: tuple[Token, ...], params: SamplingParams, **changes: object) -> dict[str, object]:
    fields = {"model": "pocket", "prompt": list(prompt), "max_tokens": NUM_TOKENS, "temperature": params.temperature}
    return {**fields, "seed": params.seed, **changes}


async def streamed(client: httpx.AsyncClient, fields: dict[str, object]) -> str:
    """The text of one streamed answer; an error in it fails the test."""
    text, lines = "", []
    async with client.stream("POST", "/v1/completions", json={**fields, "stream": True}) as response:
        assert response.status_code == httpx.codes.OK, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                chunk = httpx.Response(200, text=line.removeprefix("data: ")).json()
                assert "error" not in chunk, chunk
                text += chunk["choices"][0]["text"]
            lines.append(line)
    assert "data: [DONE]" in lines
    return text


def client_of(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=300.0)


@pytest.mark.parametrize("role", ["drafter", "verifier", "router"])
async def test_a_replica_killed_under_load_changes_no_text(server: Server, cases: list[Case], role: str) -> None:
    async def kill() -> None:
        os.kill(sorted(server.replicas(role))[0], signal.SIGKILL)

    async with client_of(server) as client:
        asks = [partial(streamed, client, body(prompt, params)) for prompt, params, _ in cases * 2]
        texts = await answers_around(kill, asks)
    for (_, _, expected), found in zip(cases * 2, texts, strict=True):
        assert set(found) == {expected}
    async with asyncio.timeout(300):
        while len(server.replicas(role)) < 2:
            await asyncio.sleep(0.5)


async def test_bad_requests_are_named_while_good_ones_finish_unchanged(server: Server, cases: list[Case]) -> None:
    async with client_of(server) as client:
        running = [asyncio.create_task(streamed(client, body(prompt, params))) for prompt, params, _ in cases]
        for param, changes in BAD_BODIES:
            response = await client.post("/v1/completions", json={**body((5, 6, 7), PARAMS[0]), **changes})
            error = response.json()["error"]
            assert 400 <= response.status_code < 500, (param, response.text)
            assert error["param"] == param, error
            assert set(error) == {"message", "type", "param", "code"}
        response = await client.post("/v1/completions", content=b'{"model": "pocket", "prompt"')
        assert response.status_code == httpx.codes.BAD_REQUEST
        texts = await asyncio.gather(*running)
    assert texts == [expected for _, _, expected in cases]


async def test_a_client_that_leaves_frees_its_session(server: Server, cases: list[Case]) -> None:
    prompt, params, _ = cases[0]
    async with client_of(server) as client:
        fields = {**body(prompt, params, max_tokens=900), "stream": True, "stop": ["never said"]}
        async with client.stream("POST", "/v1/completions", json=fields) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    break
    for name in ("outrider_router_num_sessions", "outrider_kv_cache_usage_perc"):
        await wait_for_metric(server, name, lambda held: held == 0)
