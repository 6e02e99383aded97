"""The accelerator's bench: published shapes, cells that fit, rows that add up, and a cost table that predicts them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from deployments.cli.main import main
from deployments.policy.hardware import Pair
from deployments.timing import StepShape
from evaluation.load.accelerator import measuring
from evaluation.load.accelerator.checkpoints import random_pair
from evaluation.load.accelerator.cost_table import HOP_MS, cost_table
from evaluation.load.accelerator.measuring import Options, Run
from evaluation.load.accelerator.published import SHAPES
from evaluation.load.accelerator.records import Budget, DraftRow, Plan, PromptRow, StepRow
from evaluation.load.accelerator.verifying import BLOCK_SIZE, cache_limits, entry_bytes
from evaluation.load.accelerator.weights import share_used, weight_bytes
from evaluation.load.engine_step import ROOM
from evaluation.load.samples import Spread

SMALL = Plan(
    sessions=(1, 2, 4),
    context=100,
    short_context=40,
    long_context=300,
    long_sessions=(1, 2),
    prompt_chunks=(32, 64),
    repeats=2,
)
TINY = ("tiny", "tiny-experts", "tiny-unified")


def run(budget_s: float = 600.0, **options: object) -> Run:
    """A run on the CPU that says nothing."""
    chosen = {"shape": "tiny", "device": "cpu", "dtype": "float32", "plan": SMALL, **options}
    return Run(
        options=Options(**chosen),  # type: ignore[arg-type]
        budget=Budget(budget_s),
        say=lambda _line: None,
        save=lambda _findings: None,
    )


@pytest.mark.parametrize(
    ("name", "target", "assistant"), [("31b", 30.7e9, 470e6), ("26b-a4b", 25.2e9, 420e6), ("12b", 11.9e9, 423e6)]
)
def test_shapes_have_the_published_numbers_of_parameters(name: str, target: float, assistant: float) -> None:
    pair = random_pair(SHAPES[name], device="meta", dtype=torch.bfloat16)
    weights = weight_bytes(pair.model)
    assert (weights.dense + weights.experts) / 2 == pytest.approx(target, rel=0.01)
    assert weight_bytes(pair.assistant).dense / 2 == pytest.approx(assistant, rel=0.01)


def test_a_shadow_is_as_large_as_the_design_says() -> None:
    """Bytes per committed token of both shadow layers: 24,576 of the 31B, half of that of the 26B-A4B."""
    for name, expected in (("31b", 24_576), ("26b-a4b", 12_288)):
        spec = random_pair(SHAPES[name], device="meta", dtype=torch.bfloat16).spec
        assert sum(2 * 2 * layer.entry_numel for layer in spec.layers.values()) == expected


def test_the_share_of_experts_that_tokens_use() -> None:
    assert share_used(1, 128, 8) == pytest.approx(8 / 128)
    assert share_used(2, 128, 8) == pytest.approx(1 - (15 / 16) ** 2)
    assert share_used(1000, 128, 8) == pytest.approx(1.0)
    assert share_used(3, 1, 1) == 1.0


@pytest.mark.parametrize("shape", TINY)
def test_every_cell_is_measured(shape: str) -> None:
    findings = run(shape=shape).run()
    assert findings.failures == []
    places = [(row.sessions, row.lookahead, row.context) for row in findings.steps]
    assert places == [(n, k, 100) for k in (4, 0, 8, 2) for n in (1, 2, 4)] + [(1, 4, 300), (2, 4, 300)]
    assert [row.num_tokens for row in findings.prompts] == [32, 64]
    assert [row.lookahead for row in findings.library] == [0, 4]
    assert [(row.sessions, row.lookahead, row.context) for row in findings.drafts] == [
        (n, k, context) for context in (100, 300) for k in (4, 1, 8) for n in (1, 2, 4)
    ]
    assert all(row.floor_ms and row.products_ms and row.step_ms.low > 0 for row in findings.steps)
    assert all(row.floor_ms and row.draft_ms.low > 0 for row in findings.drafts)


def test_nothing_begins_once_the_time_is_spent() -> None:
    findings = run(budget_s=0.0).run()
    assert not findings.steps
    assert not findings.prompts
    assert not findings.library
    assert not findings.drafts
    assert findings.failures == []


def test_a_section_that_fails_leaves_the_others_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("no such thing here")

    monkeypatch.setattr(measuring, "LibrarySteps", fail)
    findings = run().run()
    assert findings.failures == ["library: RuntimeError: no such thing here"]
    assert findings.steps
    assert findings.drafts


def test_where_memory_is_short_sessions_have_short_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = random_pair(SHAPES["tiny"], device="cpu", dtype=torch.float32)
    assert pair.target is not None
    per_session = -(-(100 + ROOM) // BLOCK_SIZE) * BLOCK_SIZE
    free_bytes = entry_bytes(pair.target) * (2 * per_session + 100)
    assert cache_limits(pair.target, SMALL, None).num_kv_tokens == max(4 * per_session, 2 * (300 + ROOM + 4))
    monkeypatch.setattr(Run, "_free_bytes", lambda _self: free_bytes)
    findings = run(sections=("verifier",)).run()
    assert findings.failures == []
    assert {(row.sessions, row.context) for row in findings.steps} == {(1, 100), (2, 100), (4, 40), (1, 300)}


def spread(ms: float) -> Spread:
    return Spread(ms, ms, ms)


def step_row(sessions: int, lookahead: int, context: int, time_ms: Callable[[int, int, int], float]) -> StepRow:
    ms = time_ms(sessions * (1 + lookahead), sessions, sessions * context)
    return StepRow(
        sessions=sessions, lookahead=lookahead, context=context, step_ms=spread(ms), products_ms=None, floor_ms=None
    )


def test_the_cost_table_predicts_what_it_was_made_of() -> None:
    def time_ms(num_tokens: int, sessions: int, context_tokens: int) -> float:
        return 12.0 + 0.01 * num_tokens + 0.02 * sessions + 0.1 * context_tokens / 1024

    steps = [step_row(n, k, 512, time_ms) for n in (1, 2, 4, 8, 16) for k in (0, 2, 4, 8)]
    steps += [step_row(n, 4, 4096, time_ms) for n in (1, 8)]
    prompts = [PromptRow(num_tokens=512, chunk_ms=spread(time_ms(512, 1, 0)))]
    drafts = [
        DraftRow(sessions=n, lookahead=k, context=512, draft_ms=spread(0.4 + 1.5 * k + 0.01 * n * k), floor_ms=None)
        for n in (1, 4, 16)
        for k in (1, 4, 8)
    ]
    table = cost_table(steps, prompts, drafts, description="d", source="measured: s")
    pair = msgspec.convert(table, Pair)
    assert (pair.hop_ms, pair.max_step_tokens) == (HOP_MS, 512)
    for row in steps:
        shape = StepShape(
            num_sequences=row.sessions, num_tokens=row.num_tokens, num_context_tokens=row.sessions * row.context
        )
        assert pair.verify.predict(shape) == pytest.approx(row.step_ms.median, rel=0.01)
    for draft in drafts:
        lookaheads = [draft.lookahead] * draft.sessions
        assert pair.draft.predict(lookaheads) == pytest.approx(draft.draft_ms.median, rel=0.01)
    assert list(pair.verify.step_ms) == sorted(pair.verify.step_ms)


def test_too_little_makes_no_table() -> None:
    assert cost_table([], [], [], description="d", source="s") is None


def test_the_command_prints_lines_tables_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found.json"
    where = "--device cpu --shape tiny --dtype float32 --repeats 1 --profile"
    cells = "--sessions 1,2 --lookaheads 4,0 --context 48 --long-context 80 --long-sessions 1 --prompt-chunks 32"
    assert main(["bench", "accelerator", *where.split(), *cells.split(), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| verify, ms, context 48 | k=0 | k=4 |" in printed
    assert "verify   2 x 5 at 48: " in printed
    assert "Self CPU time total" in printed
    found = json.loads(out.read_text())
    assert found["environment"]["device"] == "cpu"
    assert msgspec.convert(found["cost_table"], Pair).source.startswith("measured: random weights")
    assert len(found["steps"]) == 5


def test_without_a_gpu_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["bench", "accelerator"]) == 1
    assert "no CUDA device" in capsys.readouterr().err
