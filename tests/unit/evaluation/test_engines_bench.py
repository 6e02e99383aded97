"""The plan of a run: what is calibrated, what then competes, in which order, and what the report makes of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from evaluation.load.engines.bench import Bench, best_settings
from evaluation.load.engines.exact_prompts import exact_prompts
from evaluation.load.engines.fleet import Tokens
from evaluation.load.engines.records import (
    HF_ASSISTED,
    HF_CONTINUOUS,
    OUTRIDER,
    VLLM,
    Cell,
    EnginePlan,
    Run,
    Setting,
    run_from_answer,
)
from evaluation.load.engines.report import rows, to_markdown
from evaluation.load.engines.worker_process import WorkerError
from evaluation.pocket.records import Task

PLAN = EnginePlan(
    num_repeats=2,
    max_tokens=10,
    num_prompts={1: 1, 4: 8},
    prompt_tokens=(64,),
    lookaheads=(1, 3),
    vllm_lookaheads=(2,),
    tasks=("code",),
)
PLAIN, ONE, THREE = (Setting(OUTRIDER, k) for k in (0, 1, 3))
SPEEDS = {
    PLAIN: 10.0,
    ONE: 30.0,
    THREE: 20.0,
    Setting(VLLM, 0): 12.0,
    Setting(VLLM, 2): 25.0,
    Setting(HF_ASSISTED, 1): 5.0,
}
ENVIRONMENT = {"machine": "m", "engines": "e 1", "date": "2026-01-01", "command": "outrider bench engine"}


@dataclass
class FakeEngines:
    """Answers in the time that the setting's speed gives, always with the same tokens."""

    speeds: dict[Setting, float] = field(default_factory=lambda: dict(SPEEDS))
    log: list[tuple[Setting, int, int, int]] = field(default_factory=list)
    fails: frozenset[str] = frozenset()

    @property
    def settings(self) -> Sequence[Setting]:
        return list(self.speeds)

    def run(self, setting: Setting, prompts: Sequence[Tokens], num_streams: int, max_tokens: int) -> Run:
        self.log.append((setting, len(prompts), num_streams, max_tokens))
        if setting.system in self.fails:
            raise WorkerError(f"{setting.system} cannot do this. Details.\nlog")
        num_tokens = len(prompts) * max_tokens
        is_drafting = setting.lookahead > 0
        return Run(
            outputs=tuple((1,) * max_tokens for _ in prompts),
            wall_s=num_tokens / self.speeds[setting],
            step_ms=(1.0, 3.0, 2.0),
            num_rounds=10 if is_drafting else 0,
            num_accepted=15 if is_drafting else 0,
        )


def prompts(task: Task, num_tokens: int, count: int, seed: int) -> Sequence[Tokens]:
    return [[seed] * num_tokens] * count


def measured(engines: FakeEngines, plan: EnginePlan = PLAN, deadline_s: float = 1e9) -> Bench:
    bench = Bench(plan=plan, prompts=prompts, progress=lambda line: None, clock=lambda: 0.0)
    bench.measure("pocket", engines, deadline_s)
    return bench


def test_every_lookahead_is_calibrated_and_each_systems_best_competes() -> None:
    engines = FakeEngines()
    results = measured(engines).results
    cell = Cell("pocket", "code", 1, 64)
    assert len([key for key in results.calibration if key[0] == cell]) == len(SPEEDS)
    chosen = best_settings(cell, results.calibration)
    assert chosen == [PLAIN, ONE, Setting(VLLM, 0), Setting(VLLM, 2), Setting(HF_ASSISTED, 1)]
    timed = [call for call in engines.log if call[3] == PLAN.max_tokens][len(results.calibration) :]
    firsts = [setting for setting, _, num_streams, _ in timed if num_streams == 1]
    assert firsts == [*chosen, *reversed(chosen)]  # the second repeat turns the order around
    assert {len(runs) for runs in results.measured.values()} == {2}


def test_assisted_generation_takes_one_prompt_at_a_time() -> None:
    engines = FakeEngines()
    measured(engines)
    assert {streams for setting, _, streams, _ in engines.log if setting.system == HF_ASSISTED} == {1}
    assert {(count, streams) for _, count, streams, tokens in engines.log if tokens == 10} == {(1, 1), (8, 4)}


def test_a_peer_that_cannot_serve_the_pair_is_left_out_with_its_reason() -> None:
    speeds = SPEEDS | {Setting(HF_CONTINUOUS, 0): 1.0}
    results = measured(FakeEngines(speeds, fails=frozenset({HF_CONTINUOUS}))).results
    assert results.left_out == {("pocket", HF_CONTINUOUS): "hf-continuous cannot do this"}
    assert not any(setting.system == HF_CONTINUOUS for _, setting in results.calibration)
    assert "hf-continuous does not serve this pair: hf-continuous cannot do this\n" in to_markdown(results, ENVIRONMENT)


def test_our_own_failure_is_an_error() -> None:
    with pytest.raises(WorkerError):
        measured(FakeEngines(fails=frozenset({OUTRIDER})))


def test_no_run_starts_after_the_deadline() -> None:
    ticks = iter(range(1000))
    engines = FakeEngines()
    bench = Bench(plan=PLAN, prompts=prompts, progress=lambda line: None, clock=lambda: float(next(ticks)))
    bench.measure("pocket", engines, 15.0)
    assert len(engines.log) == 15
    assert bench.results.is_cut_short
    assert "Time ran out" in to_markdown(bench.results, ENVIRONMENT)


def test_rows_have_what_the_cost_tables_need() -> None:
    found = json.loads(json.dumps(rows(measured(FakeEngines()).results)))
    row = next(r for r in found if r["phase"] == "measured" and r["system"] == OUTRIDER and r["lookahead"] == 1)
    assert (
        row
        | {
            "pair": "pocket",
            "request_class": "code",
            "streams": 1,
            "prompt_tokens": 64,
            "output_tokens_per_s": pytest.approx(30.0),
            "step_ms_p50": 2.0,
            "acceptance_length": 2.5,
            "num_runs": 2,
            "num_same_text": 2,
            "num_compared_text": 2,
        }
        == row
    )
    assert len([r for r in found if r["phase"] == "calibration"]) == 6 + 5


def test_the_table_shows_speed_lookahead_acceptance_and_who_said_something_else() -> None:
    results = measured(FakeEngines()).results
    key = Cell("pocket", "code", 1, 64), Setting(VLLM, 2)
    results.measured[key] = [replace(run, outputs=((2,),)) for run in results.measured[key]]
    text = to_markdown(results, ENVIRONMENT)
    assert "| pocket: tokens/s | streams | prompt | outrider, plain | outrider | vLLM, plain | vLLM, MTP |" in text
    assert "| code | 1 | 64 | 10 (10 to 10) | 30 (30 to 30); k=1, 2.50 per round | 12 (12 to 12) |" in text
    assert "one at a time |" in text
    assert "vLLM, plain 18 of 18, vLLM, MTP 16 of 18, HF generate, assisted 2 of 2" in text
    assert "e 1; 2026-01-01; `outrider bench engine`" in text
    assert "vLLM was not measured" not in text
    without = measured(FakeEngines({PLAIN: 1.0})).results
    assert "vLLM was not measured" in to_markdown(without, ENVIRONMENT)


def test_an_answer_becomes_a_run() -> None:
    run = run_from_answer({"outputs": [[1, 2], [3]], "wall_s": 2, "step_ms": [4], "num_rounds": 2, "num_accepted": 3})
    assert (run.tokens_per_s, run.step_ms_p50, run.acceptance_length) == (1.5, 4, 2.5)
    with pytest.raises(KeyError):
        run_from_answer({"outputs": []})


@pytest.mark.parametrize("num_tokens", [16, 64, 400])
@pytest.mark.parametrize("task", ["structured", "code", "prose"])
def test_prompts_have_the_length_asked_for_and_end_in_their_question(task: Task, num_tokens: int) -> None:
    def encode(text: str) -> list[int]:
        begin = "<bos>"
        return [2, *text[len(begin) :].encode()] if text.startswith(begin) else list(text.encode())

    found = exact_prompts(task, num_tokens, 3, 1, encode)
    assert [len(prompt) for prompt in found] == [num_tokens] * 3
    assert all(prompt[0] == 2 and bytes(prompt[1:]).endswith(b"<|turn>model\n") for prompt in found)
    assert len({tuple(prompt) for prompt in found}) == (3 if num_tokens > 16 else len(set(map(tuple, found))))
    assert found == exact_prompts(task, num_tokens, 3, 1, encode)
    if num_tokens > 16:
        assert found != exact_prompts(task, num_tokens, 3, 2, encode)
