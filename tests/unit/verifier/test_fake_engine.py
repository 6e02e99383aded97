"""The fake keeps the contract it stands in for, and needs no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deployments.messages import SamplingParams
from deployments.verifier.engine import Chunk, VerifierEngine
from deployments.verifier.fake_engine import FakeEngine, toy_next_token, toy_proposal

PARAMS = SamplingParams(seed=3)


def reference(prompt: list[int], num_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(toy_next_token(tokens, seed=3, vocab_size=50))
    return tokens


@pytest.mark.parametrize("agreement", [0.0, 0.6, 1.0])
def test_the_output_does_not_depend_on_what_was_drafted(agreement: float) -> None:
    engine: VerifierEngine = FakeEngine()
    engine.open(1, PARAMS, 100)
    tokens = [5, 6, 7]
    engine.step([Chunk(session=1, start=0, tokens=(5, 6), is_partial=True)])
    num_accepted = num_drafted = 0
    while len(tokens) < 60:
        proposal = toy_proposal(tokens, seed=3, vocab_size=50, lookahead=4, agreement=agreement)
        chunk = Chunk(session=1, start=len(tokens) - 1, tokens=(tokens[-1], *proposal), num_drafted=4)
        (outcome,) = engine.step([chunk])
        tokens += [*proposal[: outcome.num_accepted], outcome.next_token]
        num_accepted += outcome.num_accepted
        num_drafted += 4
    assert tokens == reference([5, 6, 7], len(tokens) - 3)
    share = num_accepted / num_drafted
    assert share == agreement if agreement in (0.0, 1.0) else 0.2 < share < 0.6


def test_misuse_is_noticed() -> None:
    engine = FakeEngine(max_sessions=1)
    engine.open(1, PARAMS, 10)
    assert not engine.can_open(5)
    with pytest.raises(ValueError, match="no room"):
        engine.open(2, PARAMS, 5)
    with pytest.raises(AssertionError, match="open already"):
        engine.open(1, PARAMS, 5)
    with pytest.raises(AssertionError, match="starts at the computed length"):
        engine.step([Chunk(session=1, start=2, tokens=(1,))])
    with pytest.raises(AssertionError, match="not open"):
        engine.step([Chunk(session=7, start=0, tokens=(1,))])
    with pytest.raises(AssertionError, match="outgrew"):
        engine.step([Chunk(session=1, start=0, tokens=(1,) * 11)])


def test_rollback_and_shadow_follow_the_computed_tokens() -> None:
    engine = FakeEngine(window=4)
    engine.open(1, PARAMS, 100)
    engine.step([Chunk(session=1, start=0, tokens=tuple(range(10)), is_partial=True)])
    sliding, full = engine.shadow(1, 2, 9)
    assert (sliding.start, full.start, full.keys) == (5, 2, bytes(range(2, 9)))
    before = engine.hidden(1)
    engine.rollback(1, 6)
    engine.rollback(1, 6)
    assert engine.computed_len(1) == 6
    assert engine.hidden(1) != before
    engine.close(1)
    engine.close(1)
    assert (engine.num_opened, engine.num_closed, engine.kv_usage) == (1, 1, 0.0)


def test_fake_and_scheduler_import_neither_torch_nor_ray() -> None:
    code = (
        "import sys, deployments.verifier.fake_engine, deployments.verifier.scheduler;"
        "sys.exit(bool({'torch', 'ray', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
