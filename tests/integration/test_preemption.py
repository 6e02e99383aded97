"""Sessions that make way for others and are computed again say what the library says, in every shape."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from deployments.distributions import DistributionStore
from deployments.drafter.draft_model_engine import DraftCacheLimits, load_draft_model_engine
from deployments.drafter.mtp_engine import MtpEngine, load_mtp_engine
from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.messages import Acceptance, SamplingParams, SessionId
from deployments.models.loading import load_target
from deployments.paged.prefix_index import Prefix
from deployments.verifier.admission import MAX_PREEMPTIONS
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from tests.support.equality import POCKET, Tally, reference_of
from tests.support.pocket import chat_prompts, drafter_engine, make_request, outputs, stop_token_ids, verifier_engine
from tests.support.rig import Rig, running_rig
from tests.support.served_shapes import (
    GREEDY,
    NUM_TOKENS,
    PENALISED,
    SAMPLED,
    SMALL_STEPS,
    generated,
    num_preemptions,
)
from tests.support.shapes import GEMMA_4, VOCAB_SIZE, save_decoder, save_pair

MODES = (GREEDY, SAMPLED, PENALISED)
SMALL = CacheLimits(max_context_tokens=192, num_kv_tokens=200, max_lookahead=8, block_size=4)
LENGTHS = (20, 75, 9, 20, 13, 20, 2, 30)
"""All of these prompts fit together, but not with their outputs."""


def small_engine(folder: Path) -> PagedEngine:
    return PagedEngine(load_target(str(folder), dtype=torch.float32, device="cpu"), SMALL)


def assistants(target: Path) -> list[MtpEngine]:
    """The shape's MTP drafter, if it has one."""
    assistant = Path(f"{target}-assistant")
    if not assistant.exists():
        return []
    return [load_mtp_engine(str(target), str(assistant), dtype=torch.float32, shadow_bytes=1 << 22)]


async def check(rig: Rig, folder: Path, modes: Sequence[SamplingParams] = MODES) -> None:
    """Outputs that do not fit beside each other, greedy, sampled and penalised, against the library's model."""
    reference = reference_of(folder)
    tally, generator = Tally(reference), random.Random(8)
    for params in modes:
        prompts = [tuple(generator.randrange(3, VOCAB_SIZE) for _ in range(length)) for length in LENGTHS]
        before = num_preemptions(rig)
        got = await generated(rig, prompts, params)
        assert 0 < num_preemptions(rig) - before <= MAX_PREEMPTIONS * len(prompts)
        for prompt, output in zip(prompts, got, strict=True):
            asked = replace(params, num_prompt_tokens=len(prompt))
            tally.check(prompt, asked, reference.generate(prompt, asked, NUM_TOKENS), output)
    tally.close()


@pytest.fixture(scope="module", params=[*GEMMA_4, "llama", "qwen3"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    return save_pair(folder, GEMMA_4[name]) if name in GEMMA_4 else save_decoder(folder / "target", name)


@pytest.mark.parametrize("reuses_prefixes", [True, False])
async def test_the_text_of_every_shape_is_the_librarys_after_making_way(target: Path, reuses_prefixes: bool) -> None:
    engine = small_engine(target)
    drafters = assistants(target)
    settings = {**SMALL_STEPS, "reuses_prefixes": reuses_prefixes}
    async with running_rig(verifiers=[engine], drafters=drafters, verifier=settings) as rig:
        await check(rig, target)
        assert not drafters or rig.of("drafter")[0].service.stats.num_draft_tokens > 0
    engine.check_integrity()
    assert engine.kv_usage == 0


@pytest.mark.parametrize("acceptance", ["coupled", "rejection"])
async def test_a_drafter_inside_the_verifier_keeps_its_shadows(tmp_path: Path, acceptance: Acceptance) -> None:
    target = save_pair(tmp_path, GEMMA_4["31B"])
    store = DistributionStore()

    def inside() -> dict:
        drafter = load_mtp_engine(str(target), f"{target}-assistant", dtype=torch.float32, shadow_bytes=1 << 22)
        return {"mtp": DrafterService(drafter, DrafterSettings(), store=store)}

    # Rejection sampling promises a distribution, and the same text only where that has one token.
    modes = MODES if acceptance == "coupled" else (replace(GREEDY, acceptance="rejection"),)
    async with running_rig(verifiers=[small_engine(target)], inside=inside, store=store, verifier=SMALL_STEPS) as rig:
        await check(rig, target, modes)


async def test_a_draft_models_sessions_go_on_after_making_way(tmp_path: Path) -> None:
    target, other = save_decoder(tmp_path / "target", "llama"), save_decoder(tmp_path / "other", "llama", seed=9)
    limits = DraftCacheLimits(max_context_tokens=192, num_kv_tokens=4096)
    drafter = load_draft_model_engine(str(target), str(other), limits, dtype=torch.float32)
    settings = {"drafter": "draft_model"}
    async with running_rig(
        verifiers=[small_engine(target)], token_drafters=[drafter], router=settings, verifier=SMALL_STEPS
    ) as rig:
        await check(rig, target)


class CarelessEngine(PagedEngine):
    """Drops the last token but one of a session that made way, and reads another in its place."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._seen: set[SessionId] = set()

    def open(self, session: SessionId, params: SamplingParams, num_tokens: int, prefix: Prefix | None = None) -> int:
        assert prefix is not None
        super().open(session, params, num_tokens)
        known = [*prefix.tokens[:-2], 5]
        if session not in self._seen or len(prefix.tokens) < 3:
            self._seen.add(session)
            return 0
        self.step([Chunk(session=session, start=0, tokens=tuple(known), is_partial=True)])
        return len(known)


@pytest.mark.parametrize("shape", ["E4B", "31B"])
async def test_tokens_that_are_dropped_on_the_way_are_noticed(tmp_path: Path, shape: str) -> None:
    target = save_pair(tmp_path, GEMMA_4[shape])
    loaded = load_target(str(target), dtype=torch.float32, device="cpu")
    async with running_rig(verifiers=[CarelessEngine(loaded, SMALL)], verifier=SMALL_STEPS) as rig:
        with pytest.raises(AssertionError, match="no near-tie"):
            await check(rig, target)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
async def test_four_times_more_chats_than_fit_all_finish_with_the_references_text(params: SamplingParams) -> None:
    num_tokens, prompts = 64, sorted(chat_prompts(48, seed=3), key=len)[:24]
    longest = max(len(prompt) for prompt in prompts) + num_tokens
    whole = sum(len(prompt) + num_tokens for prompt in prompts)
    engine = verifier_engine(num_kv_tokens=max(longest + 16, whole // 4), max_context_tokens=longest)
    reference = reference_of(POCKET / "target")
    made = [
        make_request(i, prompt, params, num_tokens, num_speculative_tokens=(0, 4, 8)[i % 3])
        for i, prompt in enumerate(prompts)
    ]
    async with running_rig(verifiers=[engine], drafters=[drafter_engine()], num_routers=2) as rig:
        got = await outputs(rig, made)
        assert num_preemptions(rig) > 0
    engine.check_integrity()
    tally = Tally(reference)
    for prompt, output in zip(prompts, got, strict=True):
        expected = reference.generate(prompt, params, num_tokens, stop=stop_token_ids())
        tally.check(prompt, params, expected, output)
    tally.close()
