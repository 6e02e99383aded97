"""Two verifiers on a real cluster: requests go where their beginning is cached, and both have work."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.pocket import tokenizer
from tests.support.replica_logs import replica_lines
from tests.support.serve_process import Server, running_server

pytestmark = pytest.mark.system

SETTINGS: dict[str, object] = {"verifier": {"num_replicas": 2}}
SHARED = 384
"""Tokens of a topic's beginning: worth three sessions more on the verifier that has them."""
TOPICS = ("The supplier delivers the goods", "def mean(values):", "Once upon a time")
NUM_ROUNDS = 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from running_server(tmp_path_factory.mktemp("placed"), SETTINGS)


def prompt(topic: int, index: int) -> list[int]:
    words = tokenizer().encode(TOPICS[topic], add_special_tokens=False)
    return [*(words * SHARED)[:SHARED], *tokenizer().encode(f" {index}", add_special_tokens=False)]


async def answer(client: httpx.AsyncClient, tokens: list[int], max_tokens: int = 24) -> dict[str, Any]:
    body = {"model": "pocket", "prompt": tokens, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == httpx.codes.OK, response.text
    answered: dict[str, Any] = response.json()
    return answered


def cached(answered: dict[str, Any]) -> int:
    return int(answered["usage"]["prompt_tokens_details"]["cached_tokens"])


async def counted(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def verifiers_of(server: Server, answers: list[dict[str, Any]]) -> Counter[str]:
    """How many of these requests each verifier was given, by the routers' logs."""
    wanted = {answered["id"] for answered in answers}
    placed = {
        line["request"]: line["verifier"] for line in replica_lines(server) if line["message"] == "session placed"
    }
    return Counter(verifier for request, verifier in placed.items() if any(request.startswith(one) for one in wanted))


async def test_what_begins_alike_is_read_once_and_everybody_has_work(server: Server) -> None:
    answers: list[dict[str, Any]] = []
    async with httpx.AsyncClient(base_url=server.url, timeout=300.0) as client:
        before = await counted(client, "outrider_prefix_cache_hits_total")
        for index in range(NUM_ROUNDS):
            prompts = [prompt(topic, index) for topic in range(len(TOPICS))]
            answers += await asyncio.gather(*(answer(client, tokens) for tokens in prompts))
        again = await answer(client, prompt(0, 0))
        assert again["choices"][0]["text"] == answers[0]["choices"][0]["text"], "whoever answers, from cache or not"
        answers.append(again)
        num_cached = [cached(one) for one in answers]
        async with asyncio.timeout(60):  # reports come once a second
            while await counted(client, "outrider_prefix_cache_hits_total") - before < sum(num_cached):
                await asyncio.sleep(0.2)
    num_first = sum(one < SHARED - 16 for one in num_cached)
    assert num_first == len(TOPICS), f"{num_cached}: each topic is read once, by one verifier"
    placed = verifiers_of(server, answers)
    assert len(placed) == 2
    assert min(placed.values()) >= len(answers) // 4, placed


async def test_a_crowd_with_one_beginning_is_shared_out(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=300.0) as client:
        # Long enough that all are there before the first is over.
        answers = await asyncio.gather(*(answer(client, prompt(0, index), 200) for index in range(24)))
        alone = await answer(client, prompt(0, 23), 200)
    assert alone["choices"][0]["text"] == answers[23]["choices"][0]["text"]
    placed = verifiers_of(server, list(answers))
    assert len(placed) == 2
    assert min(placed.values()) >= 6, placed
