"""What steps are made of, as far as a plan reckons with it: the prompts that are read beside what is verified."""

from __future__ import annotations

import pytest

from deployments.policy.step_mix import StepMix
from deployments.timing import StepShape

NUM_SESSIONS = 8


def after(prompts: list[int], num_sessions: int = NUM_SESSIONS) -> StepMix:
    """Steps that verified a token of each session, and read so many tokens of prompts."""
    mix = StepMix()
    for num_prompt_tokens in prompts:
        shape = StepShape(
            num_sequences=num_sessions + 1, num_tokens=num_sessions + num_prompt_tokens,
            num_prompt_tokens=num_prompt_tokens,
        )  # fmt: skip
        mix.observe(shape, num_sessions, num_sessions)
    return mix


def test_the_share_of_steps_with_prompts_and_their_size_are_those_that_were_seen():
    share, num_tokens = after([0, 0, 60, 0] * 400).prompts(NUM_SESSIONS)
    assert (share, num_tokens) == (pytest.approx(0.25, abs=0.01), 60)


def test_half_of_the_sessions_meet_a_prompt_half_as_often():
    share, num_tokens = after([0, 0, 60, 0] * 400).prompts(NUM_SESSIONS / 2)
    assert (share, num_tokens) == (pytest.approx(0.125, abs=0.01), 60)


def test_where_every_step_has_a_prompt_more_sessions_have_longer_ones():
    assert after([60] * 400).prompts(2 * NUM_SESSIONS) == (1.0, 120)
    assert after([60] * 400).prompts(NUM_SESSIONS / 2) == (0.5, 60)


@pytest.mark.parametrize(("num_own", "num_prompt_tokens"), [(0, 500), (1, 499)])
def test_a_prompt_alone_holds_up_nobody(num_own: int, num_prompt_tokens: int):
    """A part of it, or the rest with the first token after it."""
    mix = after([0, 60] * 200)
    before = mix.prompts(NUM_SESSIONS)
    for _ in range(200):
        mix.observe(StepShape(num_sequences=1, num_tokens=500, num_prompt_tokens=num_prompt_tokens), num_own, num_own)
    assert mix.prompts(NUM_SESSIONS) == before


def test_without_prompts_there_is_nothing_to_reckon_with():
    assert StepMix().prompts(NUM_SESSIONS) == after([0] * 40).prompts(NUM_SESSIONS) == (0.0, 0)


def test_a_burst_of_prompts_is_not_taken_for_what_follows():
    share, num_tokens = after([0] * 200 + [800, 800] + [0] * 30).prompts(NUM_SESSIONS)
    assert share < 0.02
    assert num_tokens == 800
