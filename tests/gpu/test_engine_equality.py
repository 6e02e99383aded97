"""On an accelerator the engine decides what the library's own model decides there, whatever is drafted or batched."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from deployments.messages import SamplingParams, Token
from deployments.models.loading import load_target
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from tests.support.driving import Drive
from tests.support.engine_checks import GREEDY, SAMPLED, WARPED, check_alone_or_among_others
from tests.support.equality import Reference, Tally
from tests.support.proposals import garbage, mixed, oracle

pytestmark = pytest.mark.gpu

PROMPT_LENGTHS = (1, 11, 33, 140)
"""Inside the sliding window of 12, at its edge, and far past it; the longest is read in several chunks."""
NUM_TOKENS = 20


@pytest.fixture(scope="module")
def engine(folder: Path, device: str) -> PagedEngine:
    target = load_target(str(folder), dtype=torch.float32, device=device)
    return PagedEngine(target, CacheLimits(max_context_tokens=256, num_kv_tokens=4_000, max_lookahead=8))


@pytest.fixture(scope="module")
def reference(folder: Path, device: str) -> Reference:
    return Reference(folder, device)


@pytest.fixture(scope="module")
def prompts(engine: PagedEngine) -> list[list[Token]]:
    rng = random.Random(1)
    return [[rng.randrange(6, engine.vocab_size) for _ in range(length)] for length in PROMPT_LENGTHS]


def test_greedy_equals_the_librarys_generate(
    engine: PagedEngine, reference: Reference, prompts: list[list[Token]]
) -> None:
    expected = [reference.generate_greedy_by_library(prompt, NUM_TOKENS) for prompt in prompts]
    for lookahead in (0, 4):
        draft = garbage(engine.vocab_size, lookahead)
        outputs = Drive(engine).generate(prompts, [GREEDY] * len(prompts), NUM_TOKENS, draft)
        tally = Tally(reference)
        for prompt, right, output in zip(prompts, expected, outputs, strict=True):
            tally.check(prompt, GREEDY, right, output[: len(right)])
        tally.close()


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, WARPED], ids=["greedy", "sampled", "warped"])
def test_any_proposals_yield_the_reference(
    engine: PagedEngine, reference: Reference, prompts: list[list[Token]], params: SamplingParams
) -> None:
    expected = [reference.generate(prompt, params, NUM_TOKENS) for prompt in prompts]
    tally = Tally(reference)
    for lookahead in (0, 1, 4, 8):
        right, wrong = oracle(expected, prompts, lookahead), garbage(engine.vocab_size, lookahead)
        for draft in (right, mixed(right, wrong)):
            drive = Drive(engine)
            outputs = drive.generate(prompts, [params] * len(prompts), NUM_TOKENS, draft)
            for prompt, one, other in zip(prompts, expected, outputs, strict=True):
                tally.check(prompt, params, one, other)
            if draft is right and lookahead and not tally.num_near_ties:
                assert drive.num_accepted >= len(prompts) * (NUM_TOKENS - 2) * lookahead // (lookahead + 1)
            engine.check_integrity()
            assert engine.kv_usage == 0.0
    tally.close()


def test_alone_or_among_others_of_other_parameters(
    engine: PagedEngine, reference: Reference, prompts: list[list[Token]]
) -> None:
    check_alone_or_among_others(engine, reference, prompts, NUM_TOKENS)


def test_what_sessions_share_is_computed_once(
    engine: PagedEngine, reference: Reference, prompts: list[list[Token]]
) -> None:
    begun = [[*prompts[3], *prompt] for prompt in prompts[:3]]
    expected = [reference.generate(prompt, SAMPLED, NUM_TOKENS) for prompt in begun]
    drive, tally = Drive(engine, salt="a tenant"), Tally(reference)
    for prompt, right in zip(begun, expected, strict=True):
        (output,) = drive.generate([prompt], [SAMPLED], NUM_TOKENS, garbage(engine.vocab_size, 4))
        tally.check(prompt, SAMPLED, right, output)
    tally.close()
    assert drive.num_reused >= 2 * 128
    engine.check_integrity()


def test_a_rollback_goes_back_as_far_as_a_proposal_is_long(
    engine: PagedEngine, reference: Reference, prompts: list[list[Token]]
) -> None:
    prompt = prompts[2]
    expected = reference.generate(prompt, SAMPLED, 1)[0]
    engine.open(1, SAMPLED, 100)
    engine.step([Chunk(session=1, start=0, tokens=(*prompt, 9, 9), num_drafted=2)])
    for back in (1, 4, 6, 8):
        length = len(prompt) - back
        engine.rollback(1, length)
        (outcome,) = engine.step([Chunk(session=1, start=length, tokens=tuple(prompt[length:]))])
        assert outcome.next_token == expected
        engine.rollback(1, length)
    engine.close(1)
    engine.check_integrity()
