"""`outrider serve` with the pocket pair: texts under rejection sampling follow the target's distribution.

The same prompt, parameters and judgement as in test_rejection_served.py, which also sees a broken residual.
"""

from __future__ import annotations

import asyncio
import itertools

import httpx
import pytest

from tests.integration.test_rejection_served import NUM_REQUESTS, PARAMS, PROMPT, SIGNIFICANCE, distribution, quality
from tests.support.serve_process import Server

pytestmark = pytest.mark.system

AT_ONCE, TIME_LIMIT_S = 32, 400.0


async def test_texts_follow_the_target(pocket_server: Server) -> None:
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

    limits = httpx.Limits(max_connections=AT_ONCE)
    async with (
        asyncio.timeout(TIME_LIMIT_S),
        httpx.AsyncClient(base_url=pocket_server.url, timeout=120, limits=limits) as client,
    ):
        await asyncio.gather(*(ask(client) for _ in range(AT_ONCE)))
    assert num_accepted > 100, "or else nothing was tried"
    assert quality(texts, distribution()) > SIGNIFICANCE
