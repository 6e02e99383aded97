from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from evaluation.load.bench import HF_ASSISTED, OFF, ON, Plan, measure
from evaluation.load.report import describe_environment, to_json, to_markdown
from evaluation.load.samples import Cell, Sample, spread
from evaluation.pocket.records import Example, Task, ask

PLAN = Plan(num_repeats=3, max_tokens=32, num_prompts={1: 2, 8: 16}, tasks=("structured", "code"))


@dataclass
class FakeSystem:
    """Answers in no time, says it took a second, and notes the order of calls in a shared log."""

    name: str
    log: list[tuple[str, int, int]]
    max_streams: int = 64
    num_tokens: list[int] = field(default_factory=lambda: [100])
    text: str = "same"

    def measure(self, examples: Sequence[Example], num_streams: int, max_tokens: int) -> Sample:
        self.log.append((self.name, num_streams, len(examples)))
        count = self.num_tokens[0] if len(self.num_tokens) == 1 else self.num_tokens.pop(0)
        return Sample(num_tokens=count, wall_s=1.0, texts=(self.text,) * len(examples))


def prompts(task: Task, count: int, seed: int) -> list[Example]:
    return [ask(task, f"{seed} {index}", "") for index in range(count)]


def test_systems_take_turns_and_turn_around() -> None:
    log: list[tuple[str, int, int]] = []
    results = measure([FakeSystem("a", log), FakeSystem("b", log)], PLAN, prompts, lambda line: None)
    assert log[:4] == [("a", 1, 1), ("a", 8, 8), ("b", 1, 1), ("b", 8, 8)]  # warming up
    assert log[4:8] == [("a", 1, 2), ("b", 1, 2), ("a", 8, 16), ("b", 8, 16)]
    assert log[12:16] == [("b", 1, 2), ("a", 1, 2), ("b", 8, 16), ("a", 8, 16)]  # the second repeat
    assert {len(samples) for samples in results.values()} == {3}
    assert Cell("code", 8, "b") in results
    assert len(results) == 8


def test_every_repeat_has_its_own_prompts_and_all_systems_the_same() -> None:
    asked: list[tuple[Task, int, int]] = []

    def remember(task: Task, count: int, seed: int) -> list[Example]:
        asked.append((task, count, seed))
        return prompts(task, count, seed)

    measure([FakeSystem("a", []), FakeSystem("b", [])], PLAN, remember, lambda line: None)
    timed = [call for call in asked if call[2] > 0]
    assert len(timed) == len(set(timed)) == 3 * 2 * 2
    assert {seed for _, _, seed in timed} == {1, 2, 3}


def test_a_system_that_cannot_batch_is_left_out_of_wide_cells() -> None:
    results = measure([FakeSystem("a", [], max_streams=1)], PLAN, prompts, lambda line: None)
    assert {cell.num_streams for cell in results} == {1}


def test_time_bounds_the_repeats() -> None:
    ticks = iter(range(0, 10_000, 400))
    lines: list[str] = []
    plan = Plan(num_repeats=9, num_prompts={1: 1}, budget_s=1900, tasks=("prose",))
    results = measure([FakeSystem("a", [])], plan, prompts, lines.append, clock=lambda: next(ticks))
    # The clock moves 400 s per look: two per repeat. After the second repeat 1600 s have gone and 400 more fit.
    assert [len(samples) for samples in results.values()] == [2]
    assert lines[-1] == "time is up after 2 of 9 repeats"


def test_spread_is_median_and_range() -> None:
    found = spread([5.0, 1.0, 3.0])
    assert (found.median, found.low, found.high) == (3.0, 1.0, 5.0)


def results_of_two() -> dict[Cell, list[Sample]]:
    log: list[tuple[str, int, int]] = []
    off = FakeSystem(OFF, log, num_tokens=[0, 90, 110, 100])
    drafted = Sample(
        num_tokens=200, wall_s=1.0, num_rounds=50, num_accepted_tokens=150, overhead_ms=0.5, texts=("same",)
    )
    plan = Plan(num_repeats=3, num_prompts={1: 1}, tasks=("prose",))
    results = measure([off], plan, prompts, lambda line: None)
    results[Cell("prose", 1, ON)] = [drafted] * 3
    results[Cell("prose", 1, HF_ASSISTED)] = [replace(drafted, overhead_ms=None, texts=("other",))] * 3
    results[Cell("prose", 8, ON)] = [replace(drafted, overhead_ms=None)] * 3
    return results


def test_table_shows_median_spread_and_acceptance_length() -> None:
    text = to_markdown(results_of_two(), describe_environment("outrider bench --quick"))
    assert "| tokens/s | streams | outrider, speculation off | outrider | HF generate, assisted |\n" in text
    assert "|\n|---|---|---|---|---|\n" in text
    assert (
        "| prose | 1 | 100 (90 to 110) | 200 (200 to 200); 4.00 per round | 200 (200 to 200); 4.00 per round |" in text
    )
    assert "| prose | 8 | not measured | 200 (200 to 200); 4.00 per round | one at a time: as at 1 |" in text
    assert "outside the models at one session, ms: prose 0.50 (0.50 to 0.50)." in text
    assert "outrider 3 of 3, HF generate, assisted 0 of 3 as outrider, speculation off" in text
    assert "`outrider bench --quick`" in text


def test_json_holds_every_sample_and_where_it_was_made() -> None:
    document = json.loads(json.dumps(to_json(results_of_two(), describe_environment("outrider bench"))))
    assert set(document["environment"]) == {"machine", "versions", "revision", "date", "command"}
    assert [s["tokens_per_s"] for s in document["cells"][0]["samples"]] == [90, 110, 100]
    assert document["cells"][1]["samples"][0]["acceptance_length"] == 4.0
