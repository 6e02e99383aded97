"""Two verifiers on a real cluster: requests go where their beginning is cached, and both have work."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.support.endpoint_metrics import wait_for_metric
from tests.support.pocket import tokenizer
from tests.support.replica_logs import replica_lines
from tests.support.serve_process import Server, running_server, stopped

pytestmark = pytest.mark.system

SETTINGS: dict[str, object] = {"verifier": {"num_replicas": 2, "health_check_timeout_s": 120.0}}
SHARED = 384
"""Tokens of a topic's beginning: worth three sessions more on the verifier that has them."""
TOPICS = ("The supplier delivers the goods", "def mean(values):", "Once upon a time")
NUM_ROUNDS = 8
NUM_CROWD = 24
HITS = "outrider_prefix_cache_hits_total"
SESSIONS = "outrider_router_num_sessions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from running_server(tmp_path_factory.mktemp("placed"), SETTINGS)


def prompt(topic: int, index: int) -> list[int]:
    words = tokenizer().encode(TOPICS[topic], add_special_tokens=False)
    return [*(words * SHARED)[:SHARED], *tokenizer().encode(f" {index}", add_special_tokens=False)]


async def answer(client: httpx.AsyncClient, tokens: list[int], **more: str) -> dict[str, Any]:
    body = {"model": "pocket", "prompt": tokens, "max_tokens": 24, "temperature": 0, "ignore_eos": True, **more}
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == httpx.codes.OK, response.text
    answered: dict[str, Any] = response.json()
    return answered


def cached(answered: dict[str, Any]) -> int:
    return int(answered["usage"]["prompt_tokens_details"]["cached_tokens"])


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
        before = await wait_for_metric(server, HITS)
        for index in range(NUM_ROUNDS):
            prompts = [prompt(topic, index) for topic in range(len(TOPICS))]
            answers += await asyncio.gather(*(answer(client, tokens) for tokens in prompts))
        again = await answer(client, prompt(0, 0))
        assert again["choices"][0]["text"] == answers[0]["choices"][0]["text"], "whoever answers, from cache or not"
        answers.append(again)
        num_cached = [cached(one) for one in answers]
        await wait_for_metric(server, HITS, lambda hits: hits - before >= sum(num_cached))
    num_first = sum(one < SHARED - 16 for one in num_cached)
    assert num_first == len(TOPICS), f"{num_cached}: each topic is read once, by one verifier"
    placed = verifiers_of(server, answers)
    assert len(placed) == 2
    assert min(placed.values()) >= len(answers) // 4, placed


async def test_a_salt_keeps_a_prompt_from_those_that_have_another(server: Server) -> None:
    tokens = prompt(1, 1_000)
    async with httpx.AsyncClient(base_url=server.url, timeout=300.0) as client:
        unsalted = await answer(client, tokens)
        first, second, other = [await answer(client, tokens, cache_salt=salt) for salt in ("mine", "mine", "yours")]
    assert (cached(first), cached(other)) == (0, 0)
    assert cached(second) >= SHARED - 16
    assert len({one["choices"][0]["text"] for one in (unsalted, first, second, other)}) == 1


async def test_a_crowd_with_one_beginning_is_shared_out(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=300.0) as client:
        with ExitStack() as all_are_there:
            for verifier in server.replicas("verifier"):
                all_are_there.enter_context(stopped(verifier))
            asked = [asyncio.create_task(answer(client, prompt(0, index))) for index in range(NUM_CROWD)]
            await wait_for_metric(server, SESSIONS, lambda num: num == NUM_CROWD, phase="verifying")
        answers = await asyncio.gather(*asked)
        alone = await answer(client, prompt(0, NUM_CROWD - 1))
    assert alone["choices"][0]["text"] == answers[-1]["choices"][0]["text"]
    placed = verifiers_of(server, list(answers))
    assert len(placed) == 2
    assert min(placed.values()) >= 6, placed
