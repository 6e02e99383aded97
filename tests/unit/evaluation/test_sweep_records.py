from __future__ import annotations

import pytest

from evaluation.load.sweep_compare import best_fixed, compare, one_for_all, ratio_of, settings_against
from evaluation.load.sweep_records import Load, Lookahead, Place, Row, Slo, Trace, percentile, summarise

PLACE = Place("code", Load(2))


def trace(due_s: float, *chunks: tuple[float, int], is_done: bool = True) -> Trace:
    return Trace(due_s, list(chunks), is_done=is_done, num_rounds=2, num_accepted_tokens=3)


def test_a_request_tells_its_latencies() -> None:
    one = trace(1.0, (1.1, 1), (1.2, 4), (1.4, 6))
    assert one.ttft_ms == pytest.approx(100)
    assert one.tpot_ms == pytest.approx(60)  # 300 ms for the five tokens after the first chunk
    assert one.itl_ms == pytest.approx([100, 200])
    assert one.tokens_between(1.15, 1.4) == 3  # the second chunk alone: the end is not part of it


def test_an_answer_of_one_chunk_has_no_time_per_token() -> None:
    one = trace(0.0, (0.1, 9))
    assert one.tpot_ms is None
    assert one.meets(Slo(ttft_ms=100.1, tpot_ms=1))
    assert not one.meets(Slo(ttft_ms=99.0, tpot_ms=1))


def test_a_request_that_was_cut_counts_with_the_times_it_had_reached() -> None:
    """Without it a row would be of the fast requests alone."""
    silent, slow = Trace(1.0, cut_s=3.0), trace(1.0, (1.5, 1), (2.0, 3), is_done=False)
    slow.cut_s = 3.5
    assert (silent.ttft_ms, silent.tpot_ms) == (2000, None)
    assert (slow.ttft_ms, slow.tpot_ms) == (500, 1000)  # two tokens in the two seconds from the first to the cut
    row = summarise(PLACE, 3, [trace(1.0, (1.1, 1), (1.2, 2)), silent, slow], (1.0, 3.0), Slo(tpot_ms=101))
    assert (row.ttft_ms_p99, row.tpot_ms_p99, row.num_cut) == (2000, 1000, 2)
    assert row.goodput == 0.5


def test_chunks_that_tell_no_count_share_the_last_word() -> None:
    one = Trace(0.0)
    for at_s in (0.1, 0.2, 0.3, 0.4):
        one.take(at_s, True, None)
    assert one.tokens_between(0.0, 0.25) == 2
    one.take(0.5, False, 12)
    assert one.tokens_between(0.0, 0.25) == 6
    assert one.num_tokens == 12
    assert one.tpot_ms == pytest.approx(300 / 9)


def test_tokens_without_text_of_their_own_belong_to_the_last_text() -> None:
    one = Trace(0.0)
    one.take(0.1, False, 0)
    for at_s, has_text, num_tokens in ((0.2, True, 1), (0.3, False, 2), (0.4, True, 5), (0.5, False, 6)):
        one.take(at_s, has_text, num_tokens)
    assert one.chunks == [(0.2, 2), (0.4, 6)]


@pytest.mark.parametrize(
    ("slo", "is_met"), [(Slo(ttft_ms=101, tpot_ms=61), True), (Slo(ttft_ms=101, tpot_ms=59), False)]
)
def test_goodput_asks_for_both(slo: Slo, is_met: bool) -> None:
    assert trace(1.0, (1.1, 1), (1.2, 4), (1.4, 6)).meets(slo) is is_met


def test_a_row_counts_tokens_of_the_window_and_requests_due_in_it() -> None:
    early = trace(0.5, (0.9, 1), (2.0, 11))  # warm-up: its tokens in the window count, its latencies do not
    inside = trace(2.0, (2.1, 1), (3.1, 11))
    cut = trace(2.5, (2.6, 1), is_done=False)
    refused = Trace(2.7, has_failed=True)
    row = summarise(PLACE, 3, [early, inside, cut, refused], (1.0, 3.0), Slo(ttft_ms=150, tpot_ms=101))
    assert row.output_tokens_per_s == (10 + 1 + 1) / 2.0
    assert (row.num_requests, row.num_failed, row.seconds) == (3, 1, 2.0)
    assert row.ttft_ms_p50 == pytest.approx(100)
    assert row.tpot_ms_p99 == pytest.approx(100)
    assert row.itl_ms_p99 == pytest.approx(1000)
    assert row.acceptance_length == 2.5
    assert row.goodput == 0.5
    assert row.goodput_share == pytest.approx(1 / 3)
    assert (row.concurrency, row.request_rate, row.lookahead) == (2, None, 3)


def test_a_cell_without_any_answer_is_a_row_without_latencies() -> None:
    row = summarise(Place("prose", Load(rate=0.5)), "auto", [], (0.0, 2.0), Slo())
    assert (row.output_tokens_per_s, row.ttft_ms_p50, row.acceptance_length, row.goodput_share) == (0, None, None, None)
    assert (row.concurrency, row.request_rate) == (None, 0.5)


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(one) for one in range(100, 0, -1)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile([7.0], 99) == 7
    assert percentile([], 50) is None


# -- comparison ----------------------------------------------------------------------------------


def row(lookahead: Lookahead, speed: float, place: Place = PLACE) -> Row:
    one = summarise(place, lookahead, [trace(0.0, (0.5, 1))], (0.0, 1.0), Slo())
    return Row(**{**one.as_json(), "output_tokens_per_s": speed})


def test_the_best_fixed_lookahead_is_of_the_same_place_and_never_auto() -> None:
    elsewhere = Place("code", Load(8))
    rows = [row(0, 5), row(2, 7), row(4, 7), row("auto", 9), row(8, 99, elsewhere)]
    assert best_fixed(PLACE, rows) == 2
    assert best_fixed(elsewhere, rows) == 8
    assert best_fixed(Place("prose", Load(2)), rows) is None


def test_off_runs_beside_auto_whether_it_is_the_best_or_not() -> None:
    assert settings_against(0) == ("auto", 0)
    assert settings_against(3) == ("auto", 3, 0)


def test_a_ratio_is_geometric_and_its_bound_is_students() -> None:
    ratio = ratio_of([(2.0, 1.0), (1.0, 2.0), (3.0, 3.0)])
    assert ratio.mean == pytest.approx(1.0)
    # logs 0.693, -0.693, 0: standard deviation 0.693; t with two degrees of freedom is 2.920
    assert ratio.low == pytest.approx(2.718281828 ** (-2.920 * 0.693147 / 3**0.5), rel=1e-4)


def test_equal_runs_leave_no_doubt_and_one_run_leaves_no_bound() -> None:
    assert ratio_of([(1.1, 1.0)] * 4).low == pytest.approx(1.1)
    assert ratio_of([(1.1, 1.0)]).low is None
    assert ratio_of([(0.0, 1.0), (1.0, 0.0)]).mean is None


def test_a_comparison_pairs_the_runs_of_a_repeat() -> None:
    found = compare(PLACE, 4, [{"auto": 10.0, 4: 8.0, 0: 5.0}, {"auto": 5.0, 4: 4.0, 0: 5.0}])
    assert (found.best_fixed, found.num_pairs) == (4, 2)
    assert found.over_best == pytest.approx(1.25)
    assert found.over_best_low == pytest.approx(1.25)
    assert found.over_off == pytest.approx(2**0.5)
    assert found.over_off_low is not None
    assert found.over_off_low < 0.5  # two pairs that differ prove little


def test_one_lookahead_for_all_places_is_the_best_by_the_geometric_mean() -> None:
    many = Place("prose", Load(8))
    rows = [row(0, 10), row(4, 40), row(8, 50), row("auto", 50)]
    rows += [row(0, 10, many), row(4, 8, many), row(8, 4, many), row("auto", 10, many)]
    found = one_for_all(rows)
    assert found is not None
    assert (found.lookahead, found.num_places) == (4, 2)  # means 10, 17.9 and 14.1
    assert found.auto_over_it == pytest.approx((50 / 40 * 10 / 8) ** 0.5)


def test_what_was_not_measured_everywhere_is_not_for_all() -> None:
    many, arriving = Place("prose", Load(8)), Place("code", Load(rate=2.0))
    assert one_for_all([row(0, 10), row("auto", 20)]) is None  # one place alone
    assert one_for_all([row(0, 10), row("auto", 20), row(0, 9, arriving), row("auto", 9, arriving)]) is None
    assert one_for_all([row(0, 10), row("auto", 20), row(0, 9, many), row("auto", 0, many)]) is None
    assert one_for_all([row(8, 90), row("auto", 20), row("auto", 9, many)]) is None
    rows = [row(0, 10), row(8, 90), row("auto", 20), row(0, 9, many), row("auto", 9, many)]
    found = one_for_all([*rows, row(8, 0, many)])
    assert found is not None
    assert found.lookahead == 0
    assert found.auto_over_it == pytest.approx(2**0.5)
