"""The live comparison of lookaheads: what it makes of a configuration, and whom it asks for what in which order."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

import pytest

from deployments.config import OutriderConfig
from deployments.ingress.generation import GenerateRequest, RouterClient
from deployments.messages import Commit
from evaluation.load.lookaheads import Plan, Prompt, main, measure, without_prefix_reuse

Asked = tuple[int | None, int]
"""A lookahead, and the first token of a prompt."""


@dataclass
class Client:
    """Answers two rounds of three tokens to every request, with as many drafted as were asked for."""

    asked: list[Asked] = field(default_factory=list)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Commit]:
        self.asked.append((request.num_speculative_tokens, request.prompt[0]))
        for number in range(2):
            yield Commit(
                request=request.id,
                context_len=1 + 3 * number,
                tokens=(1, 2, 3),
                num_drafted=request.num_speculative_tokens or 0,
                num_accepted=0,
            )


@dataclass
class Supply:
    """Prompts whose first token is the seed, and how many of which task were asked for."""

    asked: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, task: str, count: int, seed: int) -> list[Prompt]:
        self.asked.append((task, count))
        return [Prompt(tokens=(seed,), request_class="code", stop_token_ids=()) for _ in range(count)]


def plan_of(*, streams: tuple[int, ...] = (2,), seconds: float = math.inf, num_repeats: float = math.inf) -> Plan:
    return Plan(
        tasks=("code", "prose"),
        streams=streams,
        lookaheads=(0, 4, 4),
        num_prompts=6,
        max_tokens=8,
        seconds=seconds,
        num_repeats=num_repeats,
    )


async def turns_of(plan: Plan) -> list[list[int | None]]:
    """Measure, and return each turn's settings in order, having checked that all answered its prompts."""
    client = Client()
    await measure(cast(RouterClient, client), plan, Supply())
    turns = []
    for seed, (_, asked) in enumerate(groupby(client.asked, key=lambda one: one[1]), 1):
        lookaheads = [(lookahead, seed_asked) for lookahead, seed_asked in asked]
        assert {seed_asked for _, seed_asked in lookaheads} == {seed}  # fresh prompts
        bursts = [(lookahead, len(list(run))) for lookahead, run in groupby(lookahead for lookahead, _ in lookaheads)]
        assert all(num_answers == plan.num_prompts for _, num_answers in bursts)
        turns.append([lookahead for lookahead, _ in bursts])
    return turns


async def test_all_settings_answer_a_turns_prompts_and_each_turn_has_its_own():
    turns = await turns_of(plan_of(num_repeats=4))
    assert len(turns) == 8
    assert all(sorted(turn, key=str) == [0, 4, None] for turn in turns)


async def test_the_order_is_drawn_for_each_turn_and_the_same_for_all_runs():
    turns = await turns_of(plan_of(num_repeats=10))
    assert {turn[0] for turn in turns} == {turn[-1] for turn in turns} == {0, 4, None}
    assert await turns_of(plan_of(num_repeats=10)) == turns


async def test_a_burst_counts_what_came():
    cells = await measure(cast(RouterClient, Client()), plan_of(num_repeats=2), Supply())
    assert [(cell, len(turns)) for cell, turns in cells.items()] == [(("code", 2), 2), (("prose", 2), 2)]
    burst = cells["prose", 2][1]["4"]
    assert (burst.num_tokens, burst.num_rounds, burst.num_drafted) == (36, 12, 48)
    assert burst.seconds > 0


async def test_a_stream_has_at_least_two_prompts():
    supply = Supply()
    await measure(cast(RouterClient, Client()), plan_of(streams=(1, 8), num_repeats=1), supply)
    assert supply.asked == [("code", 6), ("code", 16), ("prose", 6), ("prose", 16)]


def test_time_that_is_up_ends_with_a_whole_sweep(monkeypatch: pytest.MonkeyPatch):
    now_s = iter((100.0, 104.0, 109.9, 110.0, 120.0))
    monkeypatch.setattr("evaluation.load.lookaheads.time.monotonic", lambda: next(now_s))
    assert list(plan_of(seconds=10).sweeps()) == [0, 1, 2]


def test_there_is_one_sweep_however_short_the_time():
    assert list(plan_of(seconds=1e-9).sweeps()) == [0]
    assert list(plan_of(num_repeats=3).sweeps()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--seconds 5 --repeats 2", "not allowed with argument"),
        ("--lookaheads 0,-1", "--lookaheads: must be at least 0, not -1"),
        ("--out /nowhere/at/all.json", "cannot be written"),
    ],
)
def test_bad_input_is_told_before_anything_is_measured(
    arguments: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("evaluation.load.lookaheads.compare")
    with pytest.raises(SystemExit):
        main(arguments.split())
    assert words in capsys.readouterr().err


def test_no_setting_finds_the_prompts_that_another_one_has_read():
    config = OutriderConfig()
    changed = without_prefix_reuse(config)
    assert config.verifier.prefix_reuse
    assert not changed.verifier.prefix_reuse
    assert changed.resolve().verifier == config.resolve().verifier.model_copy(update={"prefix_reuse": False})
