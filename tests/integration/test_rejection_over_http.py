"""Rejection sampling asked for over HTTP: texts follow the target's distribution, in this process and on Ray Serve.

The same prompt, parameters and judgement as in test_rejection_served.py.
"""

from __future__ import annotations

import asyncio
import itertools

import httpx
import pytest

from deployments.decoding import rejection
from deployments.decoding.drawing import Drawer
from tests.integration.test_rejection_served import NUM_REQUESTS, PARAMS, PROMPT, SIGNIFICANCE, distribution, quality
from tests.support.pocket import drafter_engine, verifier_engine
from tests.support.rest_pocket import serving_pocket
from tests.support.serve_process import Server

AT_ONCE, TIME_LIMIT_S = 32, 400.0


async def texts_of(url: str) -> list[tuple[int, ...]]:
    """The first three tokens of many answers, each with a seed of its own."""
    seeds = itertools.count()
    texts: list[tuple[int, ...]] = []
    num_accepted = 0

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal num_accepted
        while (seed := next(seeds)) < NUM_REQUESTS:
            body = {
                "model": "pocket",
                "prompt": list(PROMPT),
                "max_tokens": 4,
                "temperature": PARAMS.temperature,
                "top_k": PARAMS.top_k,
                "top_p": 1.0,
                "seed": seed,
                "ignore_eos": True,
                "return_token_ids": True,
                "speculation": {"acceptance": "rejection", "num_speculative_tokens": 2},
            }
            response = await client.post("/v1/completions", json=body)
            assert response.status_code == httpx.codes.OK, response.text
            answer = response.json()
            texts.append(tuple(answer["choices"][0]["token_ids"][:3]))
            num_accepted += answer["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"]

    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=0)
    async with (
        asyncio.timeout(TIME_LIMIT_S),
        httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client,
    ):
        await asyncio.gather(*(ask(client) for _ in range(AT_ONCE)))
    assert num_accepted > 100, "or else nothing was tried"
    return texts


async def texts_here() -> list[tuple[int, ...]]:
    drafter = drafter_engine()
    drafter.draw = Drawer(24)
    async with serving_pocket(verifier_engine(), [drafter]) as (url, _):
        return await texts_of(url)


async def test_texts_follow_the_target() -> None:
    assert quality(await texts_here(), distribution()) > SIGNIFICANCE


async def test_a_broken_residual_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejection, "_surplus", lambda target_KV, draft_KV, may_keep_K: target_KV * may_keep_K[:, None])
    assert quality(await texts_here(), distribution()) < SIGNIFICANCE


@pytest.mark.system
async def test_texts_of_a_deployment_follow_the_target(pocket_server: Server) -> None:
    assert quality(await texts_of(pocket_server.url), distribution()) > SIGNIFICANCE
