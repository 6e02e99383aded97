"""The engine decides what the library would, whatever is drafted, batched or rolled back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from deployments.kernels.library import Kernels
from deployments.messages import SamplingParams, Token
from deployments.models.loading import load_target
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from tests.support.driving import Drive
from tests.support.engine_checks import SAMPLED, WARPED, check_alone_or_among_others
from tests.support.equality import Reference, Tally
from tests.support.proposals import garbage, mixed, oracle

PROMPT_LENGTHS = (3, 1, 40, 17, 70, 12)
NUM_TOKENS = 24


@pytest.fixture(scope="module", params=["compiled", "library"])
def engine(folder: Path, request: pytest.FixtureRequest) -> PagedEngine:
    target = load_target(str(folder), dtype=torch.float32, device="cpu")
    limits = CacheLimits(max_context_tokens=400, num_kv_tokens=8_000, max_lookahead=8)
    is_compiled = request.param == "compiled"
    engine = PagedEngine(target, limits, Kernels(compiled=is_compiled, num_threads=2))
    assert engine.is_compiled == is_compiled
    return engine


@pytest.fixture(scope="module")
def prompts(engine: PagedEngine) -> list[list[Token]]:
    rng = random.Random(1)
    return [[rng.randrange(6, engine.vocab_size) for _ in range(length)] for length in PROMPT_LENGTHS]


def test_greedy_equals_the_librarys_generate(
    engine: PagedEngine, reference: Reference, prompts: list[list[Token]]
) -> None:
    params = [SamplingParams()] * len(prompts)
    outputs = Drive(engine).generate(prompts, params, NUM_TOKENS, lambda _s, _t: ())
    tally = Tally(reference)
    for prompt, output in zip(prompts, outputs, strict=True):
        expected = reference.generate_greedy_by_library(prompt, NUM_TOKENS)
        tally.check(prompt, SamplingParams(), expected, output[: len(expected)])
    tally.close()


@pytest.mark.parametrize("params", [SamplingParams(), SAMPLED, WARPED], ids=["greedy", "sampled", "warped"])
def test_any_proposals_yield_the_reference(
    engine: PagedEngine, reference: Reference, prompts: list[list[Token]], params: SamplingParams
) -> None:
    expected = [reference.generate(prompt, params, NUM_TOKENS) for prompt in prompts]
    all_params, tally = [params] * len(prompts), Tally(reference)
    for lookahead in (0, 1, 3, 8):
        right, wrong = oracle(expected, prompts, lookahead), garbage(engine.vocab_size, lookahead)
        for draft in (right, wrong, mixed(right, wrong)):
            drive = Drive(engine)
            outputs = drive.generate(prompts, all_params, NUM_TOKENS, draft)
            for prompt, one, other in zip(prompts, expected, outputs, strict=True):
                tally.check(prompt, params, one, other)
            if draft is right and lookahead and not tally.num_near_ties:
                assert drive.num_accepted >= len(prompts) * (NUM_TOKENS - 1) * lookahead // (lookahead + 1) - len(
                    prompts
                )
            engine.check_integrity()
            assert engine.kv_usage == 0.0
    tally.close()


def test_alone_or_among_others_of_other_parameters(
    engine: PagedEngine, reference: Reference, prompts: list[list[Token]]
) -> None:
    check_alone_or_among_others(engine, reference, prompts, NUM_TOKENS)


def test_a_rollback_goes_back_as_far_as_a_proposal_is_long(
    engine: PagedEngine, reference: Reference, prompts: list[list[Token]]
) -> None:
    prompt = prompts[4]
    expected = reference.generate(prompt, SAMPLED, 1)[0]
    engine.open(1, SAMPLED, 100)
    engine.step([Chunk(session=1, start=0, tokens=(*prompt, 9, 9), num_drafted=2)])
    length = len(prompt)
    for back in (4, 4, 1, 6, 8):
        engine.rollback(1, len(prompt) - back)  # to where there is nothing any more it does nothing
        length = min(length, len(prompt) - back)
        (outcome,) = engine.step([Chunk(session=1, start=length, tokens=tuple(prompt[length:]))])
        assert outcome.next_token == expected
        engine.rollback(1, length)
    engine.close(1)
    engine.close(1)
    engine.check_integrity()


def test_room_is_refused_before_it_runs_out(engine: PagedEngine) -> None:
    num_open = 0
    while engine.can_open(392):
        engine.open(num_open, SAMPLED, 392)
        num_open += 1
    assert num_open == 20
    assert engine.kv_usage == pytest.approx(1.0)
    with pytest.raises(ValueError, match="ask can_open first"):
        engine.open(99, SAMPLED, 392)
    with pytest.raises(ValueError, match="ask for fewer"):
        engine.open(99, SAMPLED, 409)
    assert not engine.can_open(409)
    engine.close(0)
    assert engine.can_open(392)
    assert not engine.can_open(392, num_growing=1)
    engine.open(0, SAMPLED, 300)
    assert engine.grow(0, 392) == 400
    assert engine.grow(1, 401) == 400
    for session in range(num_open):
        engine.close(session)
    engine.check_integrity()
    assert engine.kv_usage == 0.0


def test_misuse_is_noticed_before_anything_is_written(engine: PagedEngine) -> None:
    engine.open(1, SAMPLED, 20)
    for chunk in (
        Chunk(session=1, start=1, tokens=(5,)),
        Chunk(session=1, start=0, tokens=(5,), num_drafted=1),
        Chunk(session=1, start=0, tokens=(5, 6), num_drafted=1, is_partial=True),
        Chunk(session=1, start=0, tokens=(5,) * 33),
        Chunk(session=1, start=0, tokens=(5,) * 10, num_drafted=9),
    ):
        with pytest.raises(AssertionError):
            engine.step([chunk])
    engine.close(1)


def test_limits_that_cannot_work_are_refused(folder: Path) -> None:
    target = load_target(str(folder), dtype=torch.float32, device="cpu")
    with pytest.raises(ValueError, match="lower it"):
        PagedEngine(target, CacheLimits(max_context_tokens=100_000, num_kv_tokens=200_000))
    with pytest.raises(ValueError, match="raise the first"):
        PagedEngine(target, CacheLimits(max_context_tokens=400, num_kv_tokens=400))
