"""Rejection sampling where something else happens, too: a drafter is lost, logits are adjusted, others are coupled."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.property.decoding.test_sampling_distribution import SIGNIFICANCE
from tests.support.cells import DRAFTING, SERVED, Cell
from tests.support.equality import Reference
from tests.support.rejected import PARAMS, Trial
from tests.support.rig import running_rig
from tests.support.served_shapes import check, drafting, save_shape, verifier_engine

CELLS = {
    f"{cell.drafter} {cell.place}": cell
    for cell in SERVED
    if (cell.shape, cell.acceptance) == ("31B", "rejection") and cell.drafter != "none"
}
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
    return Reference(folder)


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
