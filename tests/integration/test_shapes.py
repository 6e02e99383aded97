"""Every shape that Gemma 4 is published in, and other decoders, over real streams: the library's own text.

tests/support/cells.py lists the cells; those under rejection sampling are in test_shapes_rejection.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMultimodalLM

from deployments.drafter.mtp_engine import load_mtp_engine
from deployments.messages import Token
from deployments.models.loading import load_assistant, load_config, load_embedding_table, load_target, shadow_spec
from tests.support.cells import GEMMA_SHAPES, REFUSED, SERVED, SHAPES, Cell
from tests.support.equality import Tally, reference_of
from tests.support.rig import Rig, running_rig
from tests.support.served_shapes import (
    GREEDY,
    NUM_TOKENS,
    SAMPLED,
    SMALL_STEPS,
    WINDOW,
    SeenSteps,
    check,
    drafting,
    generated,
    mtp_engine,
    save_shape,
    some_prompts,
    verifier_engine,
)
from tests.support.shapes import GEMMA_4, save_pair
from tests.support.tiny_drafters import TinyPair, draft_request, kv_ranges, reference_draft

COUPLED = [cell for cell in SERVED if cell.acceptance == "coupled"]
WITH_REPLICAS = [cell for cell in COUPLED if cell.place in ("remote", "colocated")]
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """The folder of a shape's target, written when it is first asked for."""
    return cache(lambda shape: save_shape(tmp_path_factory.mktemp(shape.replace(" ", "-")), shape))


@pytest.fixture(params=GEMMA_SHAPES)
def target(request: pytest.FixtureRequest, folders: Folders) -> Path:
    return folders(request.param)


@pytest.mark.parametrize("cell", COUPLED, ids=str)
async def test_the_text_is_the_librarys_with_and_without_speculation(folders: Folders, cell: Cell) -> None:
    """In mixed batches of prompts that are read in parts, far past the window, with proposals that are rolled back."""
    folder = folders(cell.shape)
    engine, made, seen = verifier_engine(folder), drafting(cell, folder), SeenSteps()
    seen.watch(engine)
    async with running_rig(verifiers=[engine], verifier=SMALL_STEPS, **made.options) as rig:
        await check(rig, folder, cell.drafter)
        assert (made.num_draft_tokens(rig) > 0) == (cell.place in ("remote", "colocated"))
    engine.check_integrity()
    assert seen.has_part
    assert seen.longest > 10 * WINDOW
    if cell.drafter == "none":
        assert seen.num_rejected == seen.num_accepted == 0
    elif cell.drafter == "prompt_lookup":  # it may be right whenever it says anything
        assert seen.num_rejected + seen.num_accepted > 0
    else:
        assert seen.num_rejected > 0
        assert seen.most_drafting > 1
    if cell.drafter == "draft_model":
        assert seen.num_accepted > 0


@pytest.mark.parametrize("shape", SHAPES)
def test_what_texts_are_compared_with_is_the_librarys_generate(folders: Folders, shape: str) -> None:
    reference = reference_of(folders(shape))
    for prompt in some_prompts(seed=1):
        expected = reference.generate(prompt, GREEDY, NUM_TOKENS, stop=reference.eos_token_ids)
        assert reference.generate_greedy_by_library(prompt, NUM_TOKENS) == expected


@pytest.mark.parametrize("cell", WITH_REPLICAS, ids=str)
async def test_a_drafter_lost_in_the_middle_changes_no_token(folders: Folders, cell: Cell) -> None:
    """A remote one is replaced by another; one inside a verifier goes with it, and its sessions move.

    What comes afterwards is drafted for by the one that is left.
    """
    folder = folders(cell.shape)
    reference = reference_of(folder)
    prompts = some_prompts(seed=2)
    expected = [reference.generate(prompt, SAMPLED, NUM_TOKENS) for prompt in prompts]
    is_inside = cell.place == "colocated"
    made = drafting(cell, folder, count=2)
    verifiers = [verifier_engine(folder) for _ in range(2 if is_inside else 1)]
    async with running_rig(verifiers=verifiers, verifier=SMALL_STEPS, **made.options) as rig:
        running = asyncio.create_task(generated(rig, prompts, SAMPLED, cell.drafter))
        await until_busy(rig, running)
        rig.of("verifier" if is_inside else "drafter")[0].kill()
        got = await running
        before = made.num_draft_tokens(rig)
        # Of a class of their own: a random assistant is soon left alone by those that it was wrong for.
        later = await generated(rig, prompts, SAMPLED, cell.drafter, "code")
        assert made.num_draft_tokens(rig) > before
    tally = Tally(reference)
    for prompt, wanted, *outputs in zip(prompts, expected, got, later, strict=True):
        for output in outputs:
            tally.check(prompt, SAMPLED, wanted, output)
    tally.close()


async def until_busy(rig: Rig, running: asyncio.Task[list[list[Token]]]) -> None:
    """Some tokens are there, and not all."""
    while rig.of("verifier")[0].service.num_steps < 16 and not running.done():  # type: ignore[union-attr]
        await asyncio.sleep(0.001)
    assert not running.done()


@pytest.mark.parametrize("cell", REFUSED, ids=str)
def test_what_cannot_draft_for_a_shape_is_refused(folders: Folders, cell: Cell) -> None:
    with pytest.raises(ValueError, match="MTP drafting needs the Gemma 4 target itself"):
        load_mtp_engine(
            str(folders(cell.shape)), f"{folders('31B')}-assistant", dtype=torch.float32, shadow_bytes=1 << 22
        )


def test_proposals_are_those_of_the_librarys_modules(target: Path) -> None:
    spec = shadow_spec(load_config(str(target)), dtype=torch.float32)
    pair = TinyPair(
        load_target(str(target), dtype=torch.float32, device="cpu").model,
        load_assistant(f"{target}-assistant", dtype=torch.float32, device="cpu"),
        load_embedding_table(str(target), dtype=torch.float32, device="cpu"),
        spec,
    )
    engine = mtp_engine(target)
    for session, (tokens, params) in enumerate(zip(some_prompts(seed=3), [GREEDY, SAMPLED] * 3, strict=True)):
        engine.attach(session, params)
        engine.extend(session, kv_ranges(pair, tokens, 0, len(tokens) - 1))
        (draft,) = engine.draft([draft_request(pair, session, tokens, 4)])
        assert list(draft.tokens) == reference_draft(pair, tokens, 4, params)[0]


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
