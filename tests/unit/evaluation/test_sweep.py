"""A sweep against an endpoint that answers from a script, and its order and deadline with a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import pytest

from evaluation.client import EndpointError
from evaluation.load.endpoint import Served, served_model
from evaluation.load.sweep import FULL, QUICK, Sweep, SweepPlan, SweepResults, prompt_stream
from evaluation.load.sweep_client import Target
from evaluation.load.sweep_load import LEAST_DONE, Run, Timing, arrivals, measure_cell
from evaluation.load.sweep_records import Load, Lookahead, Place, Row, Slo, Trace, summarise
from evaluation.pocket.records import Example, Task, ask
from tests.support.fake_endpoint import FakeEndpoint, fake_endpoint

SHORT = Timing(warm_up_s=0.05, window_s=0.3, drain_s=0.5)


def prompts(task: Task, count: int, seed: int) -> list[Example]:
    return [ask(task, f"{task} {seed} {index}", "") for index in range(count)]


def target_of(fake: FakeEndpoint, **headers: str) -> Target:
    return Target(fake.url, served_model(fake.url), 24, headers)


def run_of(target: Target, lookahead: Lookahead = "auto") -> Run:
    return Run(target, lookahead, prompt_stream(prompts, "mixed", 0), [])


# -- one cell ------------------------------------------------------------------------------------


def test_a_closed_loop_keeps_its_streams_busy() -> None:
    with fake_endpoint(delay_s=0.01, chunk_s=0.02) as fake:
        run = run_of(target_of(fake), 3)
        start_s, stop_s = measure_cell(run, Load(4), SHORT, 0)
    assert stop_s - start_s == pytest.approx(SHORT.window_s)
    assert fake.max_in_flight <= 4
    due = run.due_in(start_s, stop_s)
    assert len(due) > 4
    assert all(trace.is_done and trace.num_tokens == 10 for trace in due)
    # A client that was not scheduled for a while sees two chunks at once, and all of them at no time.
    assert any(trace.itl_ms[0] >= 15 for trace in due)
    assert {(trace.num_rounds, trace.num_accepted_tokens) for trace in due} == {(4, 6)}
    assert all(body["speculation"] == {"num_speculative_tokens": 3} for _, body in fake.requests)
    assert all(body["max_tokens"] == 24 and body["temperature"] == 0 for _, body in fake.requests)


def test_no_setting_finds_a_prompt_that_another_one_has_read() -> None:
    """Nor one that it has read itself in an earlier turn of its prompts."""
    with fake_endpoint() as fake:
        for lookahead in (0, "auto"):
            measure_cell(run_of(target_of(fake), lookahead), Load(2), SHORT, 0)
    salts = [body["cache_salt"] for _, body in fake.requests]
    assert len(set(salts)) == len(salts)


def test_auto_leaves_the_lookahead_open() -> None:
    with fake_endpoint() as fake:
        measure_cell(run_of(target_of(fake)), Load(1), SHORT, 0)
    assert all("speculation" not in body for _, body in fake.requests)


def test_poisson_arrivals_do_not_wait_for_answers() -> None:
    with fake_endpoint(delay_s=0.2) as fake:
        run = run_of(target_of(fake))
        _, stop_s = measure_cell(run, Load(rate=60.0), SHORT, 1)
    assert fake.max_in_flight > 2
    # The load goes on to the drain's end, and its times are those of the seed whatever comes back.
    assert any(one.due_s >= stop_s for one in run.traces)
    first_s = run.traces[0].due_s
    expected = list(islice(arrivals(60.0, 0.0, 1), len(run.traces)))
    assert [one.due_s - first_s for one in run.traces] == pytest.approx([due_s - expected[0] for due_s in expected])
    # From its due time, whenever the client came to send it.
    assert all(trace.ttft_ms is not None and trace.ttft_ms >= 200 for trace in run.traces if trace.is_done)


def test_arrivals_repeat_with_their_seed_and_have_their_rate() -> None:
    one = list(islice(arrivals(5.0, 10.0, 1), 5_000))
    assert one == list(islice(arrivals(5.0, 10.0, 1), 5_000))
    assert one[:9] != list(islice(arrivals(5.0, 10.0, 2), 9))
    assert one == sorted(one)
    assert 950 < one[-1] - 10.0 < 1_050


def test_answers_that_take_too_long_are_cut_at_the_drain() -> None:
    timing = replace(SHORT, drain_s=0.1)
    with fake_endpoint(delay_s=2.0) as fake:
        run = run_of(target_of(fake))
        measure_cell(run, Load(2), timing, 0)
    assert [trace.is_done for trace in run.traces] == [False, False]
    assert all(trace.cut_s is not None and trace.ttft_ms is not None for trace in run.traces)


def test_a_slow_endpoint_is_waited_for_until_there_is_something_to_measure() -> None:
    timing = Timing(warm_up_s=0.05, window_s=0.1, drain_s=5.0, patience_s=30.0)
    with fake_endpoint(delay_s=0.3) as fake:
        run = run_of(target_of(fake))
        start_s, stop_s = measure_cell(run, Load(1), timing, 0)
    assert run.traces[0].chunks[-1][0] <= start_s  # the window began when the first answer had come
    assert sum(one.is_done for one in run.due_in(start_s, stop_s)) >= LEAST_DONE
    # By whole windows, and not a window more than it takes.
    assert (stop_s - start_s) / timing.window_s == pytest.approx(round((stop_s - start_s) / timing.window_s))
    row = summarise(Place("mixed", Load(1)), "auto", run.traces, (start_s, stop_s), Slo())
    assert row.output_tokens_per_s > 0
    assert row.ttft_ms_p50 is not None
    assert row.ttft_ms_p50 >= 300


def test_patience_has_an_end() -> None:
    timing = Timing(warm_up_s=0.05, window_s=0.1, drain_s=0.1, patience_s=0.3)
    with fake_endpoint(delay_s=5.0) as fake:
        run = run_of(target_of(fake))
        start_s, stop_s = measure_cell(run, Load(1), timing, 0)
    assert [one.is_done for one in run.traces] == [False]
    row = summarise(Place("mixed", Load(1)), "auto", run.traces, (start_s, stop_s), Slo())
    assert row.output_tokens_per_s == 0


def test_tokens_count_when_they_come_and_not_when_their_answer_ends() -> None:
    """The window may be shorter than an answer."""
    timing = Timing(warm_up_s=0.05, window_s=0.4, drain_s=5.0)
    with fake_endpoint(chunk_s=0.3) as fake:
        run = run_of(target_of(fake))
        start_s, stop_s = measure_cell(run, Load(1), timing, 0)
    ended_inside = [one for one in run.due_in(start_s, stop_s) if one.chunks[-1][0] < stop_s]
    row = summarise(Place("mixed", Load(1)), "auto", run.traces, (start_s, stop_s), Slo())
    counted = round(row.output_tokens_per_s * row.seconds)
    assert counted > 0
    assert counted >= 5 * len(ended_inside)


def test_an_endpoint_without_room_is_measured_and_not_hammered() -> None:
    with fake_endpoint(status=503) as fake:
        run = run_of(target_of(fake))
        measure_cell(run, Load(1), SHORT, 0)
    assert 1 <= len(run.traces) <= 4
    assert all(trace.has_failed and not trace.is_done for trace in run.traces)


@pytest.mark.parametrize("settings", [{"status": 400}, {"key": "right"}, {"ends_streams": False}])
def test_other_errors_end_the_cell(settings: dict[str, object]) -> None:
    with fake_endpoint(**settings) as fake, pytest.raises(EndpointError, match=r"no room|no such key|without \[DONE\]"):
        measure_cell(run_of(target_of(fake, authorization="Bearer wrong")), Load(2), SHORT, 0)


def test_a_key_goes_with_every_request() -> None:
    with fake_endpoint(key="right") as fake:
        measure_cell(run_of(target_of(fake, authorization="Bearer right")), Load(1), SHORT, 0)
    assert fake.requests


# -- the whole -----------------------------------------------------------------------------------


@dataclass
class Notes:
    """A watcher that remembers."""

    begun: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def begins(self, what: str) -> None:
        self.begun.append(what)

    def ends(self, row: Row) -> None:
        self.rows.append(row)


@dataclass
class Bench:
    """Takes the place of an endpoint: a run lasts as long as its timing says, at a speed by lookahead."""

    speeds: dict[Lookahead, int]
    now_s: float = 0.0
    interrupt_after: int = 1_000
    fail_after: int = 1_000
    runs: list[tuple[Lookahead, Load, int, str]] = field(default_factory=list)

    def clock(self) -> float:
        return self.now_s

    def measure(self, run: Run, load: Load, timing: Timing, seed: int) -> tuple[float, float]:
        if len(self.runs) >= self.interrupt_after:
            raise KeyboardInterrupt
        if len(self.runs) >= self.fail_after:
            raise EndpointError("gone")
        example = next(run.examples)
        self.runs.append((run.lookahead, load, seed, example.prompt_messages[0]["content"]))
        start_s = self.now_s + timing.warm_up_s
        stop_s = start_s + timing.window_s
        num_tokens = round(self.speeds[run.lookahead] * timing.window_s)
        run.traces.append(Trace(start_s, [(start_s, 1), (stop_s - 0.01, num_tokens)], is_done=True))
        self.now_s = stop_s + timing.drain_s
        return start_s, stop_s


PLAN = SweepPlan(
    lookaheads=(0, 2, 4, "auto"),
    loads=(Load(1), Load(8)),
    classes=("code", "mixed"),
    timing=Timing(warm_up_s=1.0, window_s=4.0, drain_s=1.0),
    num_repeats=3,
    budget_s=1_000.0,
    slo=Slo(ttft_ms=100.0, tpot_ms=5.0),
)


def sweep_of(bench: Bench, plan: SweepPlan = PLAN, kept: list[int] | None = None) -> Sweep:
    def keep(results: SweepResults) -> None:
        if kept is not None:
            kept.append(len(results.rows))

    return Sweep(
        target=Target("http://nowhere", Served("pocket"), 24, {}),
        plan=plan,
        prompts=prompts,
        watcher=Notes(),
        deadline_s=plan.budget_s,
        clock=bench.clock,
        measure=bench.measure,
        keep=keep,
    )


def test_every_cell_once_then_auto_beside_the_best_and_off() -> None:
    bench = Bench({0: 100, 2: 140, 4: 120, "auto": 150})
    results = sweep_of(bench).run()
    assert results.why_short == ""
    assert len(results.rows) == 2 * 2 * 4
    assert [row.lookahead for row in results.rows[:4]] == [0, 2, 4, "auto"]
    compared = bench.runs[1 + 16 :]
    assert [run[0] for run in compared[:6]] == ["auto", 2, 0, "auto", 2, 0]
    assert [run[0] for run in compared[12:15]] == [0, 2, "auto"]  # the second repeat turns around
    assert len(results.comparisons) == 4
    for one in results.comparisons:
        assert (one.best_fixed, one.num_pairs) == (2, 3)
        assert one.over_best == pytest.approx(150 / 140)
        assert one.over_off_low == pytest.approx(1.5)


def test_the_comparison_has_fresh_prompts_and_the_settings_of_a_repeat_the_same() -> None:
    bench = Bench({0: 100, 2: 140, 4: 120, "auto": 150})
    sweep_of(bench).run()
    calibration = {run[3] for run in bench.runs[1:17]}
    fresh = {run[3] for run in bench.runs[17:]}
    assert calibration.isdisjoint(fresh)
    assert len({run[3] for run in bench.runs[17:20]}) == 1
    assert len(calibration) == len({"code", "mixed"})


def test_nothing_begins_that_the_deadline_would_cut_to_nothing() -> None:
    bench = Bench({0: 100, 2: 140, 4: 120, "auto": 150})
    results = sweep_of(bench, replace(PLAN, budget_s=33.0)).run()
    assert bench.now_s <= 33.0
    assert len(results.rows) == 5  # the warm-up and four cells take 30 s, then there is room for a short window
    assert results.rows[-1].seconds == pytest.approx(2.0)
    assert "time is up after 33 s" in results.why_short


def test_an_interrupt_keeps_what_was_measured() -> None:
    kept: list[int] = []
    results = sweep_of(Bench({0: 1, 2: 2, 4: 3, "auto": 4}, interrupt_after=4), kept=kept).run()
    assert len(results.rows) == 3
    assert results.why_short == "interrupted"
    assert kept == [1, 2, 3, 3]


def test_an_endpoint_that_fails_on_the_way_leaves_what_was_measured() -> None:
    results = sweep_of(Bench({0: 1, 2: 2, 4: 3, "auto": 4}, fail_after=4)).run()
    assert len(results.rows) == 3
    assert (results.why_short, results.has_failed) == ("gone", True)
    with pytest.raises(EndpointError, match="gone"):
        sweep_of(Bench({0: 1, 2: 2, 4: 3, "auto": 4}, fail_after=1)).run()


def test_nothing_is_cut_that_may_still_be_good() -> None:
    """A request due at the window's end, at the objective's very bounds, ends before the drain does."""
    timings: list[Timing] = []

    class Noting(Bench):
        def measure(self, run: Run, load: Load, timing: Timing, seed: int) -> tuple[float, float]:
            timings.append(timing)
            return super().measure(run, load, timing, seed)

    plan = replace(PLAN, max_tokens=512, slo=Slo(ttft_ms=1_000, tpot_ms=50), num_repeats=0)
    sweep_of(Noting({0: 1, 2: 2, 4: 3, "auto": 4}), plan).run()
    assert timings[0].drain_s == pytest.approx(1.0 + 512 * 0.05)


def test_without_auto_there_is_nothing_to_compare() -> None:
    results = sweep_of(Bench({0: 1, 2: 2}), replace(PLAN, lookaheads=(0, 2))).run()
    assert results.comparisons == []
    assert len(results.rows) == 8


def test_quick_fits_its_bounds() -> None:
    assert QUICK.num_cells <= 20
    assert QUICK.budget_s + 60 <= 600
    timing = QUICK.timing
    assert (1 + QUICK.num_runs) * (timing.warm_up_s + timing.window_s) < QUICK.budget_s
    assert FULL.lookaheads == (*range(9), "auto")


def test_mixed_takes_the_kinds_in_turn() -> None:
    stream = prompt_stream(prompts, "mixed", 7)
    assert [next(stream).task for _ in range(4)] == ["structured", "code", "prose", "structured"]
    stream = prompt_stream(prompts, "prose", 7)
    first: Sequence[Example] = [next(stream) for _ in range(257)]
    assert {one.task for one in first} == {"prose"}
    assert first[0] == first[256]
