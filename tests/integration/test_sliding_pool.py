"""A target whose sliding layers hold windows only says what the library says, however tight their pool is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from deployments.kernels.library import Kernels
from deployments.messages import SamplingParams, SessionId, Token
from deployments.models.loading import load_target
from deployments.paged.footprint import layer_bytes, sliding_layers
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from deployments.verifier.scheduler import StepBudget
from tests.support.driving import Drive
from tests.support.equality import Reference, Tally
from tests.support.tiny_models import save_tiny_target

BLOCK, NUM_TOKENS = 4, 24
BUDGET = StepBudget(max_step_tokens=40, max_step_sessions=4, prompt_tokens=16)
GREEDY, SAMPLED = SamplingParams(), SamplingParams(temperature=0.8, seed=11)
LIMITS = CacheLimits(
    max_context_tokens=320,
    num_kv_tokens=4 * 336,
    max_sessions=4,
    max_lookahead=4,
    block_size=BLOCK,
    max_step_tokens=BUDGET.max_step_tokens,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target with a window of 12."""
    return save_tiny_target(tmp_path_factory.mktemp("tiny"), head_dim=16, global_head_dim=32)


@pytest.fixture(params=[True, False], ids=["compiled", "library"])
def engine(folder: Path, request: pytest.FixtureRequest) -> PagedEngine:
    target = load_target(str(folder), dtype=torch.float32, device="cpu")
    return PagedEngine(target, LIMITS, Kernels(compiled=request.param, num_threads=1))


def prompts(engine: PagedEngine, lengths: tuple[int, ...], num_shared: int = 0) -> list[list[Token]]:
    rng = random.Random(4)
    head = [rng.randrange(6, engine.vocab_size) for _ in range(num_shared)]
    return [[*head, *(rng.randrange(6, engine.vocab_size) for _ in range(length - num_shared))] for length in lengths]


def test_the_pool_is_a_fraction_of_what_whole_contexts_would_take(folder: Path, engine: PagedEngine) -> None:
    target = load_target(str(folder), dtype=torch.float32, device="cpu")
    layers, sliding = layer_bytes(target), sliding_layers(target.text_config)
    assert sliding == {0, 2}
    in_full = sum(size for layer, size in enumerate(layers) if layer not in sliding) * (4 * 336 + BLOCK)
    in_windows = sum(layers[layer] for layer in sliding) * (4 * 336 + BLOCK)
    assert in_full < engine.memory.cache_bytes < in_full + in_windows / 3


def test_long_prompts_in_parts_with_rejected_proposals_are_the_librarys(engine: PagedEngine, folder: Path) -> None:
    reference, rng = Reference(folder), random.Random(1)
    tally = Tally(reference)

    def garbage(_session: SessionId, _tokens: object) -> list[Token]:
        return [rng.randrange(engine.vocab_size) for _ in range(rng.randrange(5))]

    given = prompts(engine, (3, 40, 133, 290))
    for params in (GREEDY, SAMPLED):
        outputs = Drive(engine, BUDGET).generate(given, [params] * 4, NUM_TOKENS, garbage)
        for prompt, output in zip(given, outputs, strict=True):
            tally.check(prompt, params, reference.generate(prompt, params, NUM_TOKENS), output)
        engine.check_integrity()
    tally.close()


def test_sessions_that_begin_alike_share_the_window_before_their_own_part(engine: PagedEngine, folder: Path) -> None:
    reference = Reference(folder)
    tally, drive = Tally(reference), Drive(engine, BUDGET, salt="a")
    given = prompts(engine, (130, 140, 141, 150), num_shared=120)
    for _ in range(2):
        for prompt in given:
            (output,) = drive.generate([prompt], [SAMPLED], NUM_TOKENS, lambda _session, _tokens: [7, 7])
            tally.check(prompt, SAMPLED, reference.generate(prompt, SAMPLED, NUM_TOKENS), output)
            engine.check_integrity()
    assert drive.num_reused > 3 * 100
    tally.close()


def test_a_rollback_keeps_the_window_before_it(engine: PagedEngine, folder: Path) -> None:
    (prompt,) = prompts(engine, (60,))
    expected = Reference(folder).generate(prompt, SAMPLED, 1)
    engine.open(1, SAMPLED, 100)
    for start in range(0, 60, 20):
        engine.step([Chunk(session=1, start=start, tokens=tuple(prompt[start : start + 20]), is_partial=True)])
    for back in (59, 56):
        engine.rollback(1, back)
        (outcome,) = engine.step([Chunk(session=1, start=back, tokens=tuple(prompt[back:]))])
        assert [outcome.next_token] == expected
    with pytest.raises(AssertionError, match="goes back further"):
        engine.rollback(1, 40)
    engine.close(1)
    engine.check_integrity()
