"""`outrider serve` with a cache for a quarter of the sessions: every request is answered with the library's text."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deployments.messages import SamplingParams
from tests.integration.test_lossless_over_http import Case, answer, client_of
from tests.support.endpoint_metrics import TIMEOUT_S, wait_for_metric
from tests.support.equality import Reference
from tests.support.pocket import TARGET, safe_prompts, tokenizer
from tests.support.serve_process import Server, running_server, stopped

pytestmark = pytest.mark.system

NUM_TOKENS = 48
NUM_SAFE, NUM_PROMPTS = 48, 32
NUM_PROMPT_TOKENS = 24
BLOCK_SIZE = 4
NUM_TURNS = 3
MODES = (SamplingParams(), SamplingParams(temperature=0.8, seed=2**40 + 3))


async def soak(server: Server, cases: list[Case], turn: int) -> None:
    """All at once, with lookaheads that differ; each text is the library's.

    The verifier is stopped until all are there. Otherwise the pocket pair has done with the first before HTTP has
    brought the next, and it hangs on the machine whether two of them ever want the same block.
    """
    settings: list[dict[str, object]] = [{"num_speculative_tokens": (i + turn) % 5} for i in range(len(cases))]
    settings[turn] = {"drafter": "none"}
    (verifier,) = server.replicas("verifier")
    async with client_of(server) as client:
        with stopped(verifier):
            asked = [asyncio.create_task(answer(client, c, **s)) for c, s in zip(cases, settings, strict=True)]
            are_there = [len(cases)]
            await wait_for_metric(server, "outrider_router_num_sessions", are_there.__contains__, phase="verifying")
        answers = await asyncio.gather(*asked)
    for (_, _, expected), completion in zip(cases, answers, strict=True):
        assert completion.choices[0].text == expected


def test_four_times_more_requests_than_fit_are_all_answered(tmp_path: Path) -> None:
    """Twenty come in, each with 6 blocks and one to spare, and each wants 12 more: some have to make way."""
    safe = safe_prompts(Reference(TARGET), MODES, NUM_SAFE, NUM_TOKENS, NUM_PROMPT_TOKENS)
    safe = sorted(safe, key=lambda found: len(found[2]))[-NUM_PROMPTS:]
    assert min(len(output) for _, _, output in safe) >= 40, "all of them grow"
    cases = [(prompt, params, tokenizer().decode(output, skip_special_tokens=True)) for prompt, params, output in safe]
    longest = NUM_PROMPT_TOKENS + NUM_TOKENS
    room = sum(len(prompt) + NUM_TOKENS for prompt, _, _ in cases) // 4
    settings: dict[str, object] = {
        "model": {"max_context_tokens": longest},
        "verifier": {
            "kv_cache": {"num_tokens": room, "block_size": BLOCK_SIZE},
            "health_check_timeout_s": TIMEOUT_S,
        },
        "router": {"verify_timeout_s": TIMEOUT_S},
    }
    for server in running_server(tmp_path, settings):
        for turn in range(NUM_TURNS):
            asyncio.run(soak(server, cases, turn))
        num_preempted = asyncio.run(wait_for_metric(server, "vllm:num_preemptions_total", lambda count: count > 0))
    print(f"{num_preempted:.0f} sessions made way")
