"""Miniatures of every shape behind a rig: what drafts for them, where, and what their steps were like."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace

from deployments.decoding.drawing import Drawer
from deployments.distributions import DistributionStore
from deployments.drafter.draft_model_engine import DraftCacheLimits, DraftModelEngine, load_draft_model_engine
from deployments.drafter.mtp_engine import MtpEngine, load_mtp_engine
from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.drafter.token_service import TokenDrafterService, TokenDrafterSettings
from deployments.ingress.generation import GenerateRequest
from deployments.messages import DrafterName, RequestClass, SamplingParams, Token
from deployments.models.loading import load_target
from deployments.verifier.engine import Chunk, Outcome
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from tests.support.cells import GEMMA_SHAPES, Cell
from tests.support.equality import Tally, reference_of
from tests.support.rig import Rig
from tests.support.shapes import GEMMA_4, VOCAB_SIZE, save_decoder, save_pair

NUM_TOKENS, WINDOW = 24, 12
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.9, top_p=0.95, seed=2**60 + 5)
PENALISED = SamplingParams(
    temperature=0.9,
    seed=2**50 + 9,
    repetition_penalty=1.3,
    presence_penalty=0.7,
    frequency_penalty=0.6,
    logit_bias=((7, 2.0), (20, -1.5)),
)
LENGTHS = (2, 9, 13, 30, 75, 140)
"""Prompts inside the sliding window of 12, at its edge, and far past it; the longest take several steps to read."""
SMALL_STEPS = {"max_step_tokens": 32, "prompt_tokens": 12, "max_lookahead": 8}
KEPT_TOKENS = 24
"""Of how many tokens a remote drafter sends probabilities under rejection sampling."""


def save_shape(folder: Path, shape: str) -> Path:
    """Write a target of this shape and what can draft for it; returns the target's folder."""
    return save_pair(folder, GEMMA_4[shape]) if shape in GEMMA_SHAPES else save_decoder(folder, shape)


@dataclass
class SeenSteps:
    """What was in the steps of an engine: prompts in parts, sessions together, proposals that held in part."""

    has_part: bool = False
    most_drafting: int = 0
    longest: int = 0
    num_rejected: int = 0
    num_accepted: int = 0

    def watch(self, engine: PagedEngine) -> None:
        """Look at every step from now on."""
        step = engine.step

        def watched(chunks: Sequence[Chunk]) -> list[Outcome]:
            outcomes = step(chunks)
            self.has_part |= any(chunk.is_partial for chunk in chunks)
            self.most_drafting = max(self.most_drafting, sum(chunk.num_drafted > 0 for chunk in chunks))
            self.longest = max(self.longest, *(chunk.start + len(chunk.tokens) for chunk in chunks))
            held = sum(outcome.num_accepted for outcome in outcomes)
            self.num_accepted += held
            self.num_rejected += sum(chunk.num_drafted for chunk in chunks) - held
            return outcomes

        engine.step = watched  # type: ignore[method-assign]


def verifier_engine(folder: Path) -> PagedEngine:
    loaded = load_target(str(folder), dtype=torch.float32, device="cpu")
    return PagedEngine(loaded, CacheLimits(max_context_tokens=256, num_kv_tokens=4096, max_lookahead=8, block_size=4))


def mtp_engine(folder: Path) -> MtpEngine:
    return load_mtp_engine(str(folder), f"{folder}-assistant", dtype=torch.float32, shadow_bytes=1 << 22)


def draft_model_engine(folder: Path) -> DraftModelEngine:
    limits = DraftCacheLimits(max_context_tokens=256, num_kv_tokens=4096, block_size=4)
    return load_draft_model_engine(str(folder), f"{folder}-draft", limits, dtype=torch.float32)


@dataclass
class Drafting:
    """What `running_rig` needs for a cell's drafter, and how to find out what that has drafted."""

    options: dict[str, Any] = field(default_factory=dict)
    services: list[DrafterService | TokenDrafterService] = field(default_factory=list)

    def num_draft_tokens(self, rig: Rig) -> int:
        """By all drafters of the rig."""
        remote = [node.service for node in rig.of("drafter")]
        return sum(service.stats.num_draft_tokens for service in (*remote, *self.services))  # type: ignore[union-attr]


def drafting(cell: Cell, folder: Path, count: int = 1) -> Drafting:
    """`count` drafters of the cell's kind at its place; one inside each verifier that is added."""
    if cell.drafter not in ("mtp", "draft_model"):
        return Drafting()
    make: Callable[[Path], Any] = mtp_engine if cell.drafter == "mtp" else draft_model_engine
    if cell.place == "remote":
        engines = [make(folder) for _ in range(count)]
        for engine in engines:
            engine.draw = Drawer(KEPT_TOKENS)
        return Drafting({"drafters" if cell.drafter == "mtp" else "token_drafters": engines})
    store, services = DistributionStore(), list[DrafterService | TokenDrafterService]()

    def inside() -> dict[DrafterName, DrafterService | TokenDrafterService]:
        settings = TokenDrafterSettings(drafts_ahead=False)
        services.append(
            DrafterService(make(folder), DrafterSettings(), store=store)
            if cell.drafter == "mtp"
            else TokenDrafterService(make(folder), settings, store=store)
        )
        return {cell.drafter: services[-1]}

    return Drafting({"inside": inside, "store": store}, services)


def num_preemptions(rig: Rig) -> int:
    """How often sessions of the rig's first verifier have made way."""
    return int(rig.of("verifier")[0].service._stats._preemptions.value)  # type: ignore[union-attr]


def some_prompts(seed: int) -> list[tuple[Token, ...]]:
    generator = random.Random(seed)
    return [tuple(generator.randrange(3, VOCAB_SIZE) for _ in range(length)) for length in LENGTHS]


async def generated(
    rig: Rig,
    prompts: Sequence[tuple[Token, ...]],
    params: SamplingParams,
    drafter: DrafterName = "auto",
    request_class: RequestClass | None = None,
) -> list[list[Token]]:
    """All prompts at once, each with a lookahead of its own."""
    made = [
        GenerateRequest(
            id=f"r{index}",
            prompt=prompt,
            max_context_tokens=len(prompt) + NUM_TOKENS,
            params=replace(params, num_prompt_tokens=len(prompt)),
            num_speculative_tokens=(0, 1, 3, 8)[index % 4],
            drafter=drafter,
            request_class=request_class,
        )
        for index, prompt in enumerate(prompts)
    ]
    return await asyncio.wait_for(asyncio.gather(*(rig.generate(request) for request in made)), 120)


async def check(rig: Rig, folder: Path, drafter: DrafterName = "auto", **changes: Any) -> None:
    """Outputs of one mixed batch, greedy and sampled, against the library's model."""
    reference = reference_of(folder)
    tally = Tally(reference)
    for params in (GREEDY, SAMPLED):
        prompts = some_prompts(seed=1)
        expected = [reference.generate(prompt, params, NUM_TOKENS) for prompt in prompts]
        got = await generated(rig, prompts, replace(params, **changes), drafter)
        for prompt, wanted, output in zip(prompts, expected, got, strict=True):
            tally.check(prompt, params, wanted, output)
    tally.close()
