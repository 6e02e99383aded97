"""Every shape that Gemma 4 is published in, and other decoders, over real streams: the library's own text."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMultimodalLM

from deployments.drafter.mtp_engine import MtpEngine, load_mtp_engine
from deployments.ingress.generation import GenerateRequest
from deployments.messages import SamplingParams, Token
from deployments.models.loading import load_assistant, load_config, load_embedding_table, load_target, shadow_spec
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from tests.support.equality import Reference, Tally
from tests.support.rig import Rig, running_rig
from tests.support.shapes import GEMMA_4, VOCAB_SIZE, save_decoder, save_pair
from tests.support.tiny_drafters import TinyPair, draft_request, kv_ranges, reference_draft

NUM_TOKENS = 24
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=2**60 + 5)
LENGTHS = (2, 9, 13, 30, 75, 140)
"""Prompts inside the sliding window of 12, at its edge, and far past it; the longest take several steps to read."""
SMALL_STEPS = {"max_step_tokens": 32, "prompt_tokens": 12, "max_lookahead": 8}


@pytest.fixture(scope="module", params=GEMMA_4)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    return save_pair(tmp_path_factory.mktemp(name), GEMMA_4[name])


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_decoder(tmp_path_factory.mktemp(request.param), request.param)


def verifier_engine(folder: Path) -> PagedEngine:
    loaded = load_target(str(folder), dtype=torch.float32, device="cpu")
    return PagedEngine(loaded, CacheLimits(max_context_tokens=256, num_kv_tokens=4096, max_lookahead=8, block_size=4))


def drafter_engine(folder: Path) -> MtpEngine:
    return load_mtp_engine(str(folder), f"{folder}-assistant", dtype=torch.float32, shadow_bytes=1 << 22)


def some_prompts(seed: int) -> list[tuple[Token, ...]]:
    generator = random.Random(seed)
    return [tuple(generator.randrange(3, VOCAB_SIZE) for _ in range(length)) for length in LENGTHS]


async def generated(rig: Rig, prompts: Sequence[tuple[Token, ...]], params: SamplingParams) -> list[list[Token]]:
    """All prompts at once, each with a lookahead of its own."""
    made = [
        GenerateRequest(
            id=f"r{index}",
            prompt=prompt,
            max_context_tokens=len(prompt) + NUM_TOKENS,
            params=params,
            num_speculative_tokens=(0, 1, 3, 8)[index % 4],
        )
        for index, prompt in enumerate(prompts)
    ]
    return await asyncio.wait_for(asyncio.gather(*(rig.generate(request) for request in made)), 120)


async def check(rig: Rig, folder: Path) -> None:
    """Outputs of one mixed batch, greedy and sampled, against the library's model."""
    reference = Reference(folder)
    tally = Tally(reference)
    for params in (GREEDY, SAMPLED):
        prompts = some_prompts(seed=1)
        expected = [reference.generate(prompt, params, NUM_TOKENS) for prompt in prompts]
        for prompt, wanted, got in zip(prompts, expected, await generated(rig, prompts, params), strict=True):
            tally.check(prompt, params, wanted, got)
    tally.close()


async def test_the_text_is_the_librarys_with_and_without_speculation(target: Path) -> None:
    engine = verifier_engine(target)
    async with running_rig(verifiers=[engine], drafters=[drafter_engine(target)], verifier=SMALL_STEPS) as rig:
        await check(rig, target)
        assert rig.of("drafter")[0].service.stats.num_draft_tokens > 0
    engine.check_integrity()


async def test_a_drafter_replaced_in_the_middle_changes_no_token(target: Path) -> None:
    reference = Reference(target)
    prompts = some_prompts(seed=2)
    expected = [reference.generate(prompt, SAMPLED, NUM_TOKENS) for prompt in prompts]
    drafters = [drafter_engine(target), drafter_engine(target)]
    async with running_rig(verifiers=[verifier_engine(target)], drafters=drafters, verifier=SMALL_STEPS) as rig:
        running = asyncio.create_task(generated(rig, prompts, SAMPLED))
        while rig.of("verifier")[0].service.num_steps < 16 and not running.done():
            await asyncio.sleep(0.001)
        assert not running.done()
        rig.of("drafter")[0].kill()
        got = await running
    tally = Tally(reference)
    for prompt, wanted, output in zip(prompts, expected, got, strict=True):
        tally.check(prompt, SAMPLED, wanted, output)
    tally.close()


def test_proposals_are_those_of_the_librarys_modules(target: Path) -> None:
    spec = shadow_spec(load_config(str(target)), dtype=torch.float32)
    pair = TinyPair(
        load_target(str(target), dtype=torch.float32, device="cpu").model,
        load_assistant(f"{target}-assistant", dtype=torch.float32, device="cpu"),
        load_embedding_table(str(target), dtype=torch.float32, device="cpu"),
        spec,
    )
    engine = drafter_engine(target)
    for session, (tokens, params) in enumerate(zip(some_prompts(seed=3), [GREEDY, SAMPLED] * 3, strict=True)):
        engine.attach(session, params)
        engine.extend(session, kv_ranges(pair, tokens, 0, len(tokens) - 1))
        (draft,) = engine.draft([draft_request(pair, session, tokens, 4)])
        assert list(draft.tokens) == reference_draft(pair, tokens, 4, params)[0]


async def test_other_decoders_serve_without_an_assistant(decoder: Path) -> None:
    async with running_rig(verifiers=[verifier_engine(decoder)], drafters=[], verifier=SMALL_STEPS) as rig:
        await check(rig, decoder)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    target = save_pair(tmp_path, GEMMA_4["31B"])
    lost = "model.language_model.norm.weight"
    for shard in target.glob("*.safetensors"):
        weights = load_file(shard)
        weights.pop(lost, None)
        save_file(weights, shard, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights, 'model\.norm\.weight'"):
        load_target(str(target), dtype=torch.float32, device="cpu")


def test_the_decoder_read_alone_is_the_whole_models(target: Path) -> None:
    whole = AutoModelForMultimodalLM.from_pretrained(target).eval()
    assert type(whole).__name__.endswith("ForConditionalGeneration")
    alone = load_target(str(target), dtype=torch.float32, device="cpu").model
    assert not any("vision" in name for name, _ in alone.named_parameters())
    ids = torch.tensor([some_prompts(seed=4)[3]])
    with torch.inference_mode():
        assert torch.equal(alone(input_ids=ids).logits, whole(input_ids=ids).logits)


@pytest.mark.parametrize(("method", "reason"), [("gptq", "optimum"), ("no-such", "it knows .*gptq")])
def test_a_quantised_checkpoint_that_cannot_be_loaded_is_refused_by_name(
    tmp_path: Path, method: str, reason: str
) -> None:
    target = save_pair(tmp_path, GEMMA_4["E4B"])
    fields = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(
        json.dumps({**fields, "quantization_config": {"quant_method": method, "bits": 4}})
    )
    with pytest.raises(ValueError, match=f"quantised with '{method}'.*{reason}"):
        load_target(str(target), dtype=torch.float32, device="cpu")
