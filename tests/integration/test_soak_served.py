"""`outrider serve` with a cache for a quarter of the sessions: every request is answered with the library's text."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from deployments.messages import SamplingParams
from tests.integration.test_lossless_over_http import Case, answer, client_of
from tests.support.equality import Reference
from tests.support.pocket import TARGET, safe_prompts, tokenizer
from tests.support.serve_process import Server, running_server

pytestmark = pytest.mark.system

NUM_TOKENS = 48
NUM_PROMPTS = 32
MODES = (SamplingParams(), SamplingParams(temperature=0.8, seed=2**40 + 3))
METRIC_TIMEOUT_S = 30.0


def preemptions_of(server: Server) -> float:
    """What the endpoint counts, once it has counted any; 0 if it never does."""
    deadline_s = time.monotonic() + METRIC_TIMEOUT_S
    while time.monotonic() < deadline_s:
        lines = httpx.get(f"{server.url}/metrics", timeout=30).text.splitlines()
        (value,) = {float(line.split()[-1]) for line in lines if line.startswith("vllm:num_preemptions_total")}
        if value:
            return value
        time.sleep(0.5)
    return 0.0


async def soak(server: Server, cases: list[Case]) -> None:
    """All at once, again and again, with lookaheads that differ; each text is the library's."""
    async with client_of(server) as client:
        for turn in range(3):
            settings = [{"num_speculative_tokens": (index + turn) % 5} for index in range(len(cases))]
            settings[turn] = {"drafter": "none"}
            asked = (answer(client, case, **setting) for case, setting in zip(cases, settings, strict=True))
            answers = await asyncio.gather(*asked)
            for (_, _, expected), completion in zip(cases, answers, strict=True):
                assert completion.choices[0].text == expected


def test_four_times_more_requests_than_fit_are_all_answered(tmp_path: Path) -> None:
    safe = safe_prompts(Reference(TARGET), MODES, NUM_PROMPTS, NUM_TOKENS)
    cases = [(prompt, params, tokenizer().decode(output, skip_special_tokens=True)) for prompt, params, output in safe]
    longest = max(len(prompt) for prompt, _, _ in cases) + NUM_TOKENS
    whole = sum(len(prompt) + NUM_TOKENS for prompt, _, _ in cases)
    room = max(longest + 16, whole // 4)
    assert room <= whole // 3
    settings = {"model": {"max_context_tokens": longest}, "verifier": {"kv_cache": {"num_tokens": room}}}
    for server in running_server(tmp_path, settings):
        asyncio.run(soak(server, cases))
        assert preemptions_of(server) > 0
