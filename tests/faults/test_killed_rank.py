"""A verifier of two ranks on Ray: the text of one rank, and a rank killed in mid-stream costs nothing but time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import openai
import pytest

from deployments.messages import SamplingParams
from tests.support.equality import Reference
from tests.support.pocket import TARGET, safe_prompts, tokenizer
from tests.support.serve_process import Server, processes_below, running_server

pytestmark = pytest.mark.system

NUM_TOKENS = 48
PARAMS = [SamplingParams(), SamplingParams(temperature=0.8, seed=2**40 + 3)]
TITLE = "ray::Worker.run"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    verifier = {"tensor_parallel_size": 2, "health_check_period_s": 1.0}
    yield from running_server(tmp_path_factory.mktemp("ranks"), {"verifier": verifier})


def ranks(server: Server) -> set[int]:
    return {pid for pid, line in processes_below(server.process.pid).items() if line.startswith(TITLE)}


async def test_a_rank_killed_in_mid_stream_changes_no_text_and_is_replaced(server: Server) -> None:
    before, (replica,) = ranks(server), server.replicas("verifier")
    assert len(before) == 2
    cases = safe_prompts(Reference(TARGET), PARAMS, 8, NUM_TOKENS)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=300, max_retries=0) as client:

        async def answer(prompt: tuple[int, ...], params: SamplingParams) -> str:
            completion = await client.completions.create(
                model="pocket",
                prompt=list(prompt),
                max_tokens=NUM_TOKENS,
                temperature=params.temperature,
                seed=params.seed,
            )
            return completion.choices[0].text

        running = [asyncio.create_task(answer(prompt, params)) for prompt, params, _ in cases]
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        assert not all(task.done() for task in running), "the load must still be there when the rank dies"
        os.kill(sorted(before)[0], signal.SIGKILL)
        texts = await asyncio.gather(*running)
    for (_, _, output), text in zip(cases, texts, strict=True):
        assert text == tokenizer().decode(output, skip_special_tokens=True)
    assert replica not in server.replicas("verifier")
    async with asyncio.timeout(120):
        while len(ranks(server) - before) < 2:
            await asyncio.sleep(0.5)
