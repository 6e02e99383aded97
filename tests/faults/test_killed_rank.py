"""A verifier of two ranks on Ray: the text of one rank, and a rank killed in mid-stream costs nothing but time."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial

import openai
import pytest

from deployments.messages import SamplingParams
from tests.support.equality import Reference
from tests.support.pocket import TARGET, safe_prompts, tokenizer
from tests.support.serve_process import Server, processes_below, running_server
from tests.support.steady_load import answers_around

pytestmark = pytest.mark.system

NUM_TOKENS = 48
PARAMS = [SamplingParams(), SamplingParams(temperature=0.8, seed=2**40 + 3)]
TITLE = "ray::Worker.run"
REPLACEMENT_TIMEOUT_S = 300.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    verifier = {"tensor_parallel_size": 2, "health_check_period_s": 1.0}
    # Until there is another verifier sessions wait: for as long as three processes take to load torch.
    settings: dict[str, object] = {"verifier": verifier, "router": {"placement_timeout_s": REPLACEMENT_TIMEOUT_S}}
    yield from running_server(tmp_path_factory.mktemp("ranks"), settings)


def ranks(server: Server) -> set[int]:
    return {pid for pid, line in processes_below(server.process.pid).items() if line.startswith(TITLE)}


async def test_a_rank_killed_in_mid_stream_changes_no_text_and_is_replaced(server: Server) -> None:
    before, (replica,) = ranks(server), server.replicas("verifier")
    assert len(before) == 2
    cases = safe_prompts(Reference(TARGET), PARAMS, 8, NUM_TOKENS)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=600, max_retries=0) as client:

        async def answer(prompt: tuple[int, ...], params: SamplingParams) -> str:
            completion = await client.completions.create(
                model="pocket",
                prompt=list(prompt),
                max_tokens=NUM_TOKENS,
                temperature=params.temperature,
                seed=params.seed,
            )
            return completion.choices[0].text

        async def kill() -> None:
            os.kill(sorted(before)[0], signal.SIGKILL)

        texts = await answers_around(kill, [partial(answer, prompt, params) for prompt, params, _ in cases])
    for (_, _, output), found in zip(cases, texts, strict=True):
        assert set(found) == {tokenizer().decode(output, skip_special_tokens=True)}
    assert replica not in server.replicas("verifier")
    async with asyncio.timeout(REPLACEMENT_TIMEOUT_S):
        while len(ranks(server) - before) < 2:
            await asyncio.sleep(0.5)
