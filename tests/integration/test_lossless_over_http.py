"""`outrider serve` with the pocket pair, asked through the openai client: speculation never changes the text."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.messages import SamplingParams, Token
from tests.support.endpoint_metrics import metric
from tests.support.equality import POCKET, Reference
from tests.support.pocket import TARGET, chat_prompts, safe_prompts, tokenizer
from tests.support.serve_process import BIN, Server, quiet_environment, running_server, stopped
from tests.support.steady_load import answers_around

pytestmark = pytest.mark.system

NUM_TOKENS = 48
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, seed=2**40 + 3)
SETTINGS: tuple[dict[str, object], ...] = (
    {"drafter": "none"},
    *({"drafter": "mtp", "num_speculative_tokens": k} for k in (0, 1, 3, 8)),
)
Case = tuple[tuple[Token, ...], SamplingParams, str]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    """Eight greedy and eight sampled prompts that timing cannot tip over, with the library's text."""
    safe = safe_prompts(Reference(TARGET), [GREEDY, SAMPLED], 16, NUM_TOKENS)
    return [(prompt, params, tokenizer().decode(output, skip_special_tokens=True)) for prompt, params, output in safe]


@pytest.fixture(scope="module")
def server_with_a_bad_drafter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The pocket target with an assistant whose weights are noise: what it drafts is garbage."""
    folder = tmp_path_factory.mktemp("noise")
    shutil.copytree(POCKET / "assistant", folder / "assistant")
    weights = folder / "assistant" / "model.safetensors"
    generator = torch.Generator().manual_seed(0)
    noise = {
        name: (torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor).to(
            tensor.dtype
        )
        for name, tensor in load_file(weights).items()
    }
    save_file(noise, weights, metadata={"format": "pt"})
    yield from running_server(folder, {"model": {"assistant_source": str(folder / "assistant")}})


def client_of(server: Server) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=300, max_retries=0)


async def answer(client: openai.AsyncOpenAI, case: Case, **speculation: object) -> Any:
    prompt, params, _ = case
    return await client.completions.create(
        model="pocket",
        prompt=list(prompt),
        max_tokens=NUM_TOKENS,
        temperature=params.temperature,
        seed=params.seed,
        extra_body={"speculation": speculation} if speculation else None,
    )


async def company(client: openai.AsyncOpenAI) -> None:
    """Sixteen other requests, each with a lookahead of its own."""
    others = [(prompt, SAMPLED, "") for prompt in chat_prompts(16, seed=4)]
    await asyncio.gather(*(answer(client, case, num_speculative_tokens=i % 6) for i, case in enumerate(others)))


def speculation_of(completion: Any) -> dict[str, Any]:
    measured: dict[str, Any] = completion.model_extra["metrics"]["speculative_decoding"]
    return measured


def deploy_printed(server: Server, folder: Path) -> None:
    """`outrider config` of two drafted tokens a round, then `serve deploy` of what it prints."""
    settings = f"ingress: {{port: {server.port}}}\nspeculation: {{policy: constant, num_speculative_tokens: 2}}"
    (folder / "config.yaml").write_text(settings)
    printed = subprocess.run([BIN / "outrider", "config", folder / "config.yaml"], capture_output=True, check=True)
    (folder / "serve.yaml").write_bytes(printed.stdout)
    address = f"http://127.0.0.1:{server.dashboard_port}"
    command = [BIN / "serve", "deploy", folder / "serve.yaml", "--address", address]
    subprocess.run(command, capture_output=True, check=True, timeout=300, env=quiet_environment())


@pytest.mark.parametrize("speculation", SETTINGS, ids=lambda setting: "-".join(map(str, setting.values())))
async def test_the_same_text_alone_and_in_company(
    pocket_server: Server, cases: list[Case], speculation: dict[str, object]
) -> None:
    async with client_of(pocket_server) as client:
        alone = [await answer(client, case, **speculation) for case in cases]
        crowd = asyncio.create_task(company(client))
        together = await asyncio.gather(*(answer(client, case, **speculation) for case in cases))
        await crowd
    for (_, _, expected), one, other in zip(cases, alone, together, strict=True):
        assert one.choices[0].text == expected
        assert other.choices[0].text == expected
    has_drafted = sum(speculation_of(completion)["num_draft_tokens"] for completion in alone) > 0
    assert has_drafted == bool(speculation.get("num_speculative_tokens"))


async def test_a_drafter_that_drafts_garbage_changes_no_text(
    server_with_a_bad_drafter: Server, cases: list[Case]
) -> None:
    async with client_of(server_with_a_bad_drafter) as client:
        answers = await asyncio.gather(*(answer(client, case, num_speculative_tokens=4) for case in cases))
    assert [completion.choices[0].text for completion in answers] == [expected for _, _, expected in cases]
    # Prompt lookup stands in for a drafter until its shadow is there, which is not what is asked about.
    drafted, accepted = [
        await metric(server_with_a_bad_drafter, f"outrider_spec_decode_num_{what}_tokens_total", drafter="mtp")
        for what in ("draft", "accepted")
    ]
    assert drafted > 100
    assert accepted < 0.1 * drafted


async def test_a_drafter_that_stops_in_mid_stream_changes_no_text(pocket_server: Server, cases: list[Case]) -> None:
    """Its process is held for longer than the router waits for a proposal, and then goes on."""
    (drafter,) = pocket_server.replicas("drafter")

    async def hold() -> None:
        with stopped(drafter):
            await asyncio.sleep(2.5)

    async with client_of(pocket_server) as client:
        asks = [partial(answer, client, case, num_speculative_tokens=4) for case in cases]
        answers = await answers_around(hold, asks)
    for (_, _, expected), found in zip(cases, answers, strict=True):
        assert {completion.choices[0].text for completion in found} == {expected}


async def test_serve_deploy_of_the_printed_configuration_answers_the_same(
    pocket_server: Server, cases: list[Case], tmp_path: Path
) -> None:
    before = pocket_server.replicas("")
    await asyncio.to_thread(deploy_printed, pocket_server, tmp_path)
    async with asyncio.timeout(300), httpx.AsyncClient(base_url=pocket_server.url, timeout=120) as probe:
        while before & pocket_server.replicas("") or (await probe.get("/ready")).status_code != httpx.codes.OK:
            await asyncio.sleep(0.5)
    async with client_of(pocket_server) as client:
        answers = [await answer(client, case) for case in cases]
    assert [completion.choices[0].text for completion in answers] == [expected for _, _, expected in cases]
    drafted, steps = (
        sum(speculation_of(completion)[field] for completion in answers)
        for field in ("num_draft_tokens", "num_spec_steps")
    )
    assert 0 < drafted <= 2 * steps
