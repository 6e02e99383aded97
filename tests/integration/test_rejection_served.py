"""Rejection sampling with the pocket models, over real streams and in one process: the target's own distribution.

Many requests of one prompt, each with a seed of its own; chi-square over their first three tokens,
of which the first comes from the prompt and the others from a round with two drafted tokens.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import numpy as np
import pytest

from deployments.decoding import rejection
from deployments.decoding.drawing import Drawer
from deployments.distributions import DistributionStore
from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.drafter.token_service import TokenDrafterService, TokenDrafterSettings
from deployments.ingress.generation import GenerateRequest
from deployments.messages import DrafterName, SamplingParams
from deployments.verifier.paged_engine import PagedEngine
from tests.property.decoding.test_sampling_distribution import SIGNIFICANCE, fit
from tests.support import decoding_reference
from tests.support.equality import Reference
from tests.support.pocket import TARGET, draft_model_engine, drafter_engine, tokenizer, verifier_engine
from tests.support.rig import running_rig

NUM_REQUESTS, AT_ONCE, TOP_K = 1200, 48, 3
PARAMS = SamplingParams(temperature=1.6, top_k=TOP_K, acceptance="rejection")
PROMPT = tuple(tokenizer().encode("1, 2, 1, 2, 1, 2, 1, 2, 1,"))


@pytest.fixture(scope="module")
def expected() -> dict[tuple[int, ...], float]:
    return distribution()


def distribution() -> dict[tuple[int, ...], float]:
    """The probability of each text of three tokens."""
    reference = Reference(TARGET)
    chances: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        longer = {}
        for text, chance in chances.items():
            after = decoding_reference.distribution(reference.logits([*PROMPT, *text])[-1].tolist(), PARAMS)
            longer |= {(*text, token): chance * share for token, share in enumerate(after) if share > 0}
        chances = longer
    return chances


@pytest.fixture(scope="module")
def engine() -> PagedEngine:
    return verifier_engine()


def drafting(drafter: DrafterName, placement: str) -> dict[str, Any]:
    """What `running_rig` needs for this drafter at this place."""
    if drafter == "prompt_lookup":
        return {}
    is_inside = placement == "colocated"
    store = DistributionStore() if is_inside else None
    made = drafter_engine() if drafter == "mtp" else draft_model_engine()
    made.draw = Drawer(None if is_inside else 24)
    if not is_inside:
        return {"drafters" if drafter == "mtp" else "token_drafters": [made]}
    service: DrafterService | TokenDrafterService
    if drafter == "mtp":
        service = DrafterService(made, DrafterSettings(), store=store)  # type: ignore[arg-type]
    else:
        service = TokenDrafterService(made, TokenDrafterSettings(drafts_ahead=False), store=store)  # type: ignore[arg-type]
    return {"inside": lambda: {drafter: service}, "store": store}


async def first_tokens(engine: PagedEngine, drafter: DrafterName, placement: str) -> tuple[list[tuple[int, ...]], int]:
    """The first three tokens of many requests, and how many drafted ones were kept in all."""
    seeds = itertools.count()
    texts: list[tuple[int, ...]] = []
    num_accepted = 0
    async with running_rig(verifiers=[engine], **drafting(drafter, placement)) as rig:

        async def ask() -> None:
            nonlocal num_accepted
            while (seed := next(seeds)) < NUM_REQUESTS:
                params = msgspec.structs.replace(PARAMS, seed=seed)
                request = GenerateRequest(
                    id=f"r{seed}",
                    prompt=PROMPT,
                    max_context_tokens=len(PROMPT) + 4,
                    params=params,
                    num_speculative_tokens=2,
                    drafter=drafter,
                )
                tokens: list[int] = []
                async for commit in rig.client.generate(request):
                    tokens.extend(commit.tokens)
                    num_accepted += commit.num_accepted
                texts.append(tuple(tokens[:3]))

        await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(AT_ONCE))), 240)
    return texts, num_accepted


def quality(texts: list[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    cells = {text: i for i, text in enumerate(expected)}
    assert all(text in cells for text in texts), "a token that top-k forbids"
    return fit(np.array([cells[text] for text in texts]), np.array(list(expected.values())))


CELLS: list[tuple[DrafterName, str]] = [
    ("mtp", "remote"),
    ("mtp", "colocated"),
    ("draft_model", "remote"),
    ("draft_model", "colocated"),
    ("prompt_lookup", "router"),
]


@pytest.mark.parametrize(("drafter", "placement"), CELLS)
async def test_texts_follow_the_target(engine, expected, drafter: DrafterName, placement: str):
    texts, num_accepted = await first_tokens(engine, drafter, placement)
    assert num_accepted > 100, "or else nothing was tried"
    assert quality(texts, expected) > SIGNIFICANCE


@pytest.mark.parametrize(("drafter", "placement"), CELLS)
async def test_a_broken_residual_is_noticed(engine, expected, drafter: DrafterName, placement: str, monkeypatch):
    monkeypatch.setattr(rejection, "_surplus", lambda target_KV, draft_KV, may_keep_K: target_KV * may_keep_K[:, None])
    texts, _ = await first_tokens(engine, drafter, placement)
    assert quality(texts, expected) < SIGNIFICANCE
