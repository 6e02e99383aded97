"""Rejection sampling where something else happens, too.

A drafter is lost, sessions make way, proposals are trimmed, logits are adjusted, others are coupled.
"""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from deployments.decoding import rejection
from deployments.messages import Message, SessionId, Verify
from deployments.models.loading import load_target
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from tests.property.decoding.test_sampling_distribution import SIGNIFICANCE
from tests.support.cells import DRAFTING, SERVED, Cell
from tests.support.equality import Reference, reference_of
from tests.support.rejected import PARAMS, Trial
from tests.support.rig import running_rig
from tests.support.served_shapes import check, drafting, num_preemptions, save_shape, verifier_engine

pytestmark = pytest.mark.system

CELLS = {
    f"{cell.drafter} {cell.place}": cell
    for cell in SERVED
    if (cell.shape, cell.acceptance) == ("31B", "rejection") and cell.drafter != "none"
}
DRAFTED = [name for name in CELLS if "lookup" not in name]
PENALISED = replace(
    PARAMS,
    repetition_penalty=1.4,
    presence_penalty=1.5,
    frequency_penalty=1.0,
    logit_bias=((7, 2.0), (20, -1.5)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_shape(tmp_path_factory.mktemp("31B"), "31B")


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    return reference_of(folder)


@pytest.mark.parametrize("name", ["mtp remote", "draft_model remote"])
async def test_after_a_drafter_was_replaced(folder: Path, reference: Reference, name: str) -> None:
    cell, trial = CELLS[name], Trial(reference)
    made = drafting(cell, folder, count=2)
    async with running_rig(verifiers=[verifier_engine(folder)], **made.options) as rig:
        first, second = (node.service for node in rig.of("drafter"))
        running = asyncio.create_task(trial.texts(rig, cell.drafter))
        while first.stats.num_draft_tokens < 100 and not running.done():  # type: ignore[union-attr]
            await asyncio.sleep(0.001)
        before = second.stats.num_draft_tokens  # type: ignore[union-attr]
        assert not running.done()
        rig.of("drafter")[0].kill()
        texts = await running
        assert second.stats.num_draft_tokens > before  # type: ignore[union-attr]
    assert trial.fit(texts) > SIGNIFICANCE


@pytest.mark.parametrize("cell", CELLS.values(), ids=list(CELLS))
async def test_penalties_and_biases_bend_the_distribution_as_they_should(folder, reference, cell: Cell) -> None:
    """Those of drafted tokens included; the distribution without them is another one."""
    trial, made = Trial(reference, PENALISED), drafting(cell, folder)
    async with running_rig(verifiers=[verifier_engine(folder)], **made.options) as rig:
        texts = await trial.texts(rig, cell.drafter)
    assert trial.num_accepted > 20 or cell.drafter == "prompt_lookup"
    assert trial.fit(texts) > SIGNIFICANCE
    assert plain(reference).fit(texts) < SIGNIFICANCE


@cache
def plain(reference: Reference) -> Trial:
    """What there would be without penalties and biases."""
    return Trial(reference)


@pytest.mark.parametrize(("drafter", "place"), DRAFTING[:4])
async def test_coupled_requests_in_the_same_steps_keep_their_text(folder, reference, drafter, place) -> None:
    cell, trial = CELLS[f"{drafter} {place}"], Trial(reference, num_requests=400)
    made = drafting(cell, folder)
    async with running_rig(verifiers=[verifier_engine(folder)], **made.options) as rig:
        texts, _ = await asyncio.gather(trial.texts(rig, drafter), check(rig, folder, drafter))
    assert trial.fit(texts) > SIGNIFICANCE


class CrowdedEngine(PagedEngine):
    """Has no room for every other session that wants to grow, so that one must make way."""

    _num_asked = 0

    def grow(self, session: SessionId, num_tokens: int) -> int:
        self._num_asked += 1
        return super().grow(session, num_tokens) if self._num_asked % 2 == 0 else 0


def crowded_engine(folder: Path) -> CrowdedEngine:
    loaded = load_target(str(folder), dtype=torch.float32, device="cpu")
    return CrowdedEngine(loaded, CacheLimits(max_context_tokens=64, num_kv_tokens=4096, max_lookahead=8, block_size=4))


@pytest.mark.parametrize("name", DRAFTED)
async def test_after_sessions_made_way(folder: Path, reference: Reference, name: str) -> None:
    """Penalised ones, which share no prefix: they are computed and counted again, a proposal under way or not."""
    cell, trial = CELLS[name], Trial(reference, PENALISED)
    made = drafting(cell, folder)
    settings = {"reuses_prefixes": False}
    async with running_rig(verifiers=[crowded_engine(folder)], verifier=settings, **made.options) as rig:
        texts = await trial.texts(rig, cell.drafter)
        assert num_preemptions(rig) > 100
    assert trial.fit(texts) > SIGNIFICANCE


async def test_after_they_made_way_a_broken_residual_is_noticed(folder, reference, monkeypatch) -> None:
    monkeypatch.setattr(rejection, "_surplus", lambda target_KV, draft_KV, may_keep_K: target_KV)
    cell, trial = CELLS["mtp remote"], Trial(reference)
    settings = {"reuses_prefixes": False}
    made = drafting(cell, folder)
    async with running_rig(verifiers=[crowded_engine(folder)], verifier=settings, **made.options) as rig:
        assert trial.fit(await trial.texts(rig, cell.drafter)) < SIGNIFICANCE
        assert num_preemptions(rig) > 100


async def trimmed(folder: Path, trial: Trial, cell: Cell) -> float:
    """The fit where steps have no room for whole proposals; which are shortened has nothing to do with their tokens."""
    made = drafting(cell, folder)
    settings = {"max_step_tokens": 40, "prompt_tokens": 20}

    def bend(_link: object, message: Message) -> Message:
        if not isinstance(message, Verify):
            return message
        return Verify(
            items=tuple(replace(item, survival_percent=(60, 30)[: len(item.tokens)]) for item in message.items)
        )

    async with running_rig(verifiers=[verifier_engine(folder)], verifier=settings, **made.options) as rig:
        verifier = rig.of("verifier")[0]
        verifier.tap.bend = bend
        texts = await trial.texts(rig, cell.drafter)
        assert verifier.service._batching.policy.num_trimmed_tokens > 50  # type: ignore[union-attr]
    return trial.fit(texts)


@pytest.mark.parametrize("name", ["mtp remote", "draft_model colocated"])
async def test_a_trimmed_proposal_bends_nothing(folder: Path, reference: Reference, name: str) -> None:
    assert await trimmed(folder, Trial(reference), CELLS[name]) > SIGNIFICANCE
