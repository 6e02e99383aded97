"""Both engines in one loop: the output is the target's whatever is drafted, and acceptance is counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from deployments.drafter.fake_engine import FakeDrafterEngine
from deployments.messages import SessionId, Token
from deployments.verifier.fake_engine import FakeEngine, toy_next_token
from deployments.verifier.scheduler import StepBudget
from evaluation.load.engines.pair_loop import PairLoop

VOCAB = 50
BUDGET = StepBudget(max_step_tokens=24, max_step_sessions=8, prompt_tokens=8)
PROMPTS = [tuple((i * 7 + j) % VOCAB for j in range(5 + 9 * i)) for i in range(5)]


def expected(prompt: Sequence[Token], num_tokens: int, stop: tuple[Token, ...] = ()) -> tuple[Token, ...]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + num_tokens and (len(tokens) == len(prompt) or tokens[-1] not in stop):
        tokens.append(toy_next_token(tokens, seed=0, vocab_size=VOCAB))
    return tuple(tokens[len(prompt) :])


def right(session: SessionId, context_len: int, _last: Token, lookahead: int) -> Sequence[Token]:
    done = context_len - len(PROMPTS[session])
    return expected(PROMPTS[session], done + lookahead)[done:]


def loop(drafter: FakeDrafterEngine, verifier: FakeEngine, stop: tuple[Token, ...] = ()) -> PairLoop:
    return PairLoop(verifier=verifier, drafter=drafter, budget=BUDGET, stop_tokens=stop)


@pytest.mark.parametrize("num_streams", [1, 3, 8])
@pytest.mark.parametrize("lookahead", [0, 1, 4])
@pytest.mark.parametrize("is_right", [True, False])
def test_the_output_is_the_targets_own(num_streams: int, lookahead: int, is_right: bool) -> None:
    verifier = FakeEngine(vocab_size=VOCAB)
    drafter = FakeDrafterEngine(right) if is_right else FakeDrafterEngine(lambda _s, _c, last, k: [last] * k)
    run = loop(drafter, verifier).run(PROMPTS, num_streams, 11, lookahead)
    assert run.outputs == tuple(expected(prompt, 11) for prompt in PROMPTS)
    assert len(run.step_ms) == len(verifier.steps)
    assert max(len(step) for step in verifier.steps) <= num_streams
    assert verifier.open_sessions == frozenset()
    assert drafter.num_attached == drafter.num_detached == len(PROMPTS)
    if lookahead == 0:
        assert drafter.batches == []
        assert run.acceptance_length is None


def test_right_drafts_are_accepted_whole_up_to_the_room_left() -> None:
    run = loop(FakeDrafterEngine(right), FakeEngine(vocab_size=VOCAB)).run(PROMPTS, 2, 11, 4)
    # One token of the prompt's pass, two rounds of five: eleven.
    assert (run.num_rounds, run.num_accepted, run.acceptance_length) == (2 * len(PROMPTS), 8 * len(PROMPTS), 5.0)


def test_a_stop_token_inside_a_proposal_ends_the_output() -> None:
    stop = (expected(PROMPTS[0], 4)[-1],)
    run = loop(FakeDrafterEngine(right), FakeEngine(vocab_size=VOCAB), stop).run(PROMPTS[:1], 1, 11, 4)
    assert run.outputs == (expected(PROMPTS[0], 11, stop),)
    assert run.outputs[0][-1] in stop
    assert len(run.outputs[0]) < 11
