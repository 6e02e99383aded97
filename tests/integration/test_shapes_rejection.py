"""Rejection sampling with every shape, drafter and place: the target's own distribution."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from deployments.decoding import rejection
from tests.property.decoding.test_sampling_distribution import SIGNIFICANCE
from tests.support.cells import SERVED, Cell
from tests.support.equality import Reference
from tests.support.rejected import Trial
from tests.support.rig import running_rig
from tests.support.served_shapes import SMALL_STEPS, check, drafting, save_shape, verifier_engine

pytestmark = pytest.mark.system

REJECTION = [cell for cell in SERVED if cell.acceptance == "rejection"]
DRAFTED = [cell for cell in REJECTION if cell.drafter != "none"]
BROKEN = ("26B-A4B mtp remote", "31B mtp colocated", "Llama draft_model remote", "Qwen 3 draft_model colocated")
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of a shape's target, written when it is first asked for."""
    return cache(lambda shape: save_shape(tmp_path_factory.mktemp(shape.replace(" ", "-")), shape))


@pytest.fixture(scope="module")
def trials(folders: Folders) -> Callable[[str], Trial]:
    """What a shape's texts are judged by; the expectation is worked out once."""
    return cache(lambda shape: Trial(Reference(folders(shape))))


@pytest.mark.parametrize("cell", DRAFTED, ids=str)
async def test_texts_follow_the_target(folders: Folders, trials: Callable[[str], Trial], cell: Cell) -> None:
    trial, made = trials(cell.shape), drafting(cell, folders(cell.shape))
    trial.num_accepted = 0
    async with running_rig(verifiers=[verifier_engine(folders(cell.shape))], **made.options) as rig:
        texts = await trial.texts(rig, cell.drafter)
        assert (made.num_draft_tokens(rig) > 0) == (cell.place != "router")
    assert trial.num_accepted > 50 or cell.drafter == "prompt_lookup"
    assert trial.fit(texts) > SIGNIFICANCE


@pytest.mark.parametrize("cell", [cell for cell in REJECTION if cell.drafter == "none"], ids=str)
async def test_without_a_draft_the_text_is_that_of_coupled_sampling(folders: Folders, cell: Cell) -> None:
    folder = folders(cell.shape)
    async with running_rig(verifiers=[verifier_engine(folder)], verifier=SMALL_STEPS) as rig:
        await check(rig, folder, "none", acceptance="rejection")


@pytest.mark.parametrize("cell", [cell for cell in DRAFTED if str(cell) in BROKEN], ids=str)
async def test_a_broken_residual_is_noticed(folders, trials, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejection, "_surplus", lambda target_KV, draft_KV, may_keep_K: target_KV)
    trial, made = trials(cell.shape), drafting(cell, folders(cell.shape))
    async with running_rig(verifiers=[verifier_engine(folders(cell.shape))], **made.options) as rig:
        assert trial.fit(await trial.texts(rig, cell.drafter)) < SIGNIFICANCE
