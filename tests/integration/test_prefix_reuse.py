"""Sessions that begin alike compute less and say the same, with room for all of them or for a quarter."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from deployments.kernels.library import Kernels
from deployments.messages import SamplingParams, SessionId, Token
from deployments.models.loading import load_target
from deployments.paged.prefix_index import Prefix
from deployments.verifier.engine import Chunk
from deployments.verifier.paged_engine import CacheLimits, PagedEngine
from tests.support.driving import Drive
from tests.support.equality import Reference, Tally

BLOCK = 16
NUM_TOKENS = 20
PARAMS = (SamplingParams(), SamplingParams(temperature=0.8, seed=11))


def make_engine(folder: Path, *, is_compiled: bool, num_sessions: int) -> PagedEngine:
    target = load_target(str(folder), dtype=torch.float32, device="cpu")
    context = 128
    limits = CacheLimits(
        max_context_tokens=context, num_kv_tokens=num_sessions * (context + BLOCK), max_lookahead=8, block_size=BLOCK
    )
    return PagedEngine(target, limits, Kernels(compiled=is_compiled, num_threads=1))


def families(vocab_size: int, num_families: int, num_members: int) -> list[list[Token]]:
    """Prompts that share their first 53 tokens within a family, and go on for 1 to 30 tokens of their own."""
    rng = random.Random(4)

    def some(length: int) -> list[Token]:
        return [rng.randrange(6, vocab_size) for _ in range(length)]

    heads = [some(53) for _ in range(num_families)]
    return [[*head, *some(rng.randrange(1, 30))] for _ in range(num_members) for head in heads]


@pytest.mark.parametrize("is_compiled", [True, False])
def test_what_is_known_is_not_computed_and_the_output_stays(
    folder: Path, reference: Reference, is_compiled: bool
) -> None:
    engine = make_engine(folder, is_compiled=is_compiled, num_sessions=8)
    prompts = families(engine.vocab_size, 2, 2)
    params = [PARAMS[i % 2] for i in range(4)]
    expected = [reference.generate(prompt, p, NUM_TOKENS) for prompt, p in zip(prompts, params, strict=True)]
    rng = random.Random(1)

    def garbage(_session: SessionId, _tokens: object) -> list[Token]:
        return [rng.randrange(engine.vocab_size) for _ in range(rng.randrange(6))]

    tally = Tally(reference)
    # Before, while nothing is known; after, of the whole prompts; of prompts and outputs; of another tenant.
    longer = [[*prompt, *output] for prompt, output in zip(prompts, expected, strict=True)]
    rest = [reference.generate(prompt, p, NUM_TOKENS) for prompt, p in zip(longer, params, strict=True)]
    for salt, given, wanted, num_known in (
        ("a", prompts, expected, 0),
        ("a", prompts, expected, sum((len(prompt) - 1) // BLOCK * BLOCK for prompt in prompts)),
        ("a", longer, rest, sum((len(prompt) - 1) // BLOCK * BLOCK for prompt in longer)),
        ("b", prompts, expected, 0),
    ):
        drive = Drive(engine, salt=salt)
        outputs = drive.generate(given, params, NUM_TOKENS, garbage)
        assert drive.num_reused == num_known
        for prompt, p, one, other in zip(given, params, wanted, outputs, strict=True):
            tally.check(prompt, p, one, other)
        engine.check_integrity()
        assert engine.kv_usage == 0.0
    tally.close()


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_beginning_is_shared_while_its_first_session_is_still_open(
    folder: Path, reference: Reference, is_compiled: bool
) -> None:
    engine = make_engine(folder, is_compiled=is_compiled, num_sessions=2)
    first, second = families(engine.vocab_size, 1, 2)
    params = PARAMS[1]
    assert engine.open(77, params, 100, Prefix(tokens=first, salt="a")) == 0
    (outcome,) = engine.step([Chunk(session=77, start=0, tokens=tuple(first))])
    drive, tally = Drive(engine, salt="a"), Tally(reference)
    (output,) = drive.generate([second], [params], NUM_TOKENS, lambda _session, _tokens: [7, 7])
    assert drive.num_reused == 48
    tally.check(second, params, reference.generate(second, params, NUM_TOKENS), output)
    # The first goes on over its own entries, as if nobody had come by.
    (after,) = engine.step([Chunk(session=77, start=len(first), tokens=(outcome.next_token,))])
    tally.check(first, params, reference.generate(first, params, 2), [outcome.next_token, after.next_token])
    engine.close(77)
    engine.check_integrity()
    tally.close()


def test_four_times_more_sessions_than_fit_all_finish_with_their_own_text(folder: Path, reference: Reference) -> None:
    engine = make_engine(folder, is_compiled=True, num_sessions=3)
    prompts = families(engine.vocab_size, 3, 4)
    tally, drive = Tally(reference), Drive(engine, salt="a")
    rng = random.Random(2)
    order = [rng.randrange(len(prompts)) for _ in range(24)]
    for start in range(0, len(order), 3):
        given = [prompts[i] for i in order[start : start + 3]]
        outputs = drive.generate(given, [PARAMS[1]] * 3, NUM_TOKENS, lambda _session, _tokens: [7, 7])
        for prompt, output in zip(given, outputs, strict=True):
            tally.check(prompt, PARAMS[1], reference.generate(prompt, PARAMS[1], NUM_TOKENS), output)
        engine.check_integrity()
    assert drive.num_reused > 5 * 48
    tally.close()
