"""A sweep's cells in virtual time, and what a server of a sweep's own is told."""

from __future__ import annotations

from itertools import pairwise

import pytest
import yaml

from deployments.config import parse
from deployments.policy.hardware import pairs
from evaluation.load import sweep_virtual
from evaluation.load.endpoint import Served
from evaluation.load.sweep import prompt_stream
from evaluation.load.sweep_client import Target
from evaluation.load.sweep_load import Run, Timing, arrivals
from evaluation.load.sweep_paced import config_for, kept_time
from evaluation.load.sweep_records import Load, Lookahead, Place, Row, Slo, Trace, summarise
from evaluation.load.sweep_virtual import VirtualPair, texts
from tests.support.fake_endpoint import fake_endpoint

PAIR = "h100x2-l4-31b"
ANY = Timing(warm_up_s=0.0, window_s=1.0, drain_s=0.0)


@pytest.fixture(autouse=True)
def _short_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_virtual, "LEAST_TOKENS", 2_000)


def cell(load: Load, lookahead: Lookahead, kind: str = "structured") -> tuple[Row, list[Trace]]:
    run = Run(Target("", Served(PAIR), 128, {}), lookahead, prompt_stream(texts, kind, 0), [])
    window = VirtualPair(pairs()[PAIR], 128).measure(run, load, ANY, 0)
    return summarise(Place(kind, load), lookahead, run.traces, window, Slo()), run.traces


def test_one_stream_without_drafts_takes_the_table_s_time() -> None:
    row, traces = cell(Load(1), 0)
    pair = pairs()[PAIR]
    assert row.tpot_ms_p50 == pytest.approx(pair.verify.step_ms[0] + 2 * pair.hop_ms, rel=0.05)
    assert row.output_tokens_per_s == pytest.approx(1e3 / row.tpot_ms_p50, rel=0.05)
    assert (row.acceptance_length, row.num_cut, row.num_failed) == (None, 0, 0)
    assert {trace.num_tokens for trace in traces if trace.is_done} <= {32, 64, 96, 128}
    # One after another: a stream asks again when its answer has come.
    done = [trace for trace in traces if trace.is_done]
    assert all(before.chunks[-1][0] == after.due_s for before, after in pairwise(done))


def test_drafts_are_faster_and_counted() -> None:
    (off, _), (row, _) = cell(Load(4), 0), cell(Load(4), 4)
    assert row.output_tokens_per_s > 1.8 * off.output_tokens_per_s
    assert row.acceptance_length is not None
    assert 3 < row.acceptance_length < 5


def test_the_same_cell_again_is_the_same() -> None:
    assert cell(Load(2), "auto", "mixed")[0] == cell(Load(2), "auto", "mixed")[0]


def test_arrivals_are_those_of_the_seed() -> None:
    row, traces = cell(Load(rate=2.0), 4)
    times = arrivals(2.0, 0.0, 0)
    assert [trace.due_s for trace in traces] == pytest.approx([next(times) for _ in traces])
    assert row.request_rate == 2.0
    assert row.goodput_share == 1.0


def test_more_than_it_can_take_waits_is_refused_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_virtual, "_MAX_SESSIONS", 8)
    row, _ = cell(Load(rate=500.0), 0)
    assert row.num_failed > 0
    assert row.goodput_share is not None
    assert row.goodput_share < 0.5


def test_a_paced_server_has_the_pair_on_both_sides_and_no_reuse() -> None:
    config = parse(yaml.safe_load(config_for(PAIR)))
    assert config.paced == {"verifier": PAIR, "drafter": PAIR}


def test_what_an_endpoint_tells_of_its_times_is_of_all_roles() -> None:
    lines = [
        'outrider_paced_steps_total{role="verifier",hardware="x",outcome="on_time"} 6.0\n',
        'outrider_paced_steps_total{role="drafter",hardware="x",outcome="on_time"} 2.0\n',
        'outrider_paced_steps_total{role="drafter",hardware="x",outcome="late"} 2.0\n',
        "outrider_step_prediction_error 0.07\n",
    ]
    with fake_endpoint(metrics=["".join(lines)]) as fake:
        assert kept_time(fake.url) == {"late_paced_steps": 0.2, "step_prediction_error": 0.07}
    with fake_endpoint(metrics=[""]) as fake:
        assert kept_time(fake.url) == {}
    assert kept_time("http://127.0.0.1:1") == {}
