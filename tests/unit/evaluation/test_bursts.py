"""Geometric means of paired ratios and their standard errors, on numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest

from evaluation.load.bursts import AUTO, Burst, GeometricMean, over_cells, paired, rows, summarise, table


def turn(**tokens_per_s: float) -> dict[str, Burst]:
    """A turn of one second per setting; a fixed lookahead is named `k4`."""
    return {
        setting.removeprefix("k"): Burst(num_tokens=round(speed), num_rounds=100, num_drafted=250, seconds=1.0)
        for setting, speed in tokens_per_s.items()
    }


TURNS = [turn(k4=400, auto=200, k0=100), turn(auto=800, k0=100, k4=400), turn(k0=100, k4=400, auto=400)]
"""auto is at 2, 8 and 4 times off, 4 at 4 times."""


def test_a_ratio_is_of_bursts_in_the_same_turn() -> None:
    # Logarithms of base 2: 1, 3, 2, with mean 2 and standard deviation 1.
    found = paired(TURNS, AUTO, "0")
    assert found.ratio == pytest.approx(4)
    assert found.log_error == pytest.approx(math.log(2) / math.sqrt(3))
    assert found.error == pytest.approx(4 * math.log(2) / math.sqrt(3))


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    found = paired([turn(auto=300, k0=200), turn(auto=30, k0=20), turn(auto=3, k0=2)], AUTO, "0")
    assert found.ratio == pytest.approx(1.5)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_one_burst_has_no_standard_error() -> None:
    found = paired(TURNS[:1], AUTO, "0")
    assert found.ratio == pytest.approx(2)
    assert found.error is None
    assert str(found) == "2.000"


def test_the_best_fixed_lookahead_is_the_best_by_its_mean_over_off() -> None:
    # By medians 4 would be the best (300 to 200); by ratios 2 is: 2, 2, 2 against 0.5, 3, 3.
    turns = [turn(auto=200, k0=100, k2=200, k4=each) for each in (50, 300, 300)]
    found = summarise(turns)
    assert found.best_fixed == "2"
    assert found.over_best.ratio == pytest.approx(1)
    assert list(found.over_off) == ["auto", "2", "4"]
    assert found.over_off["4"].ratio == pytest.approx(4.5 ** (1 / 3))


def test_off_may_be_the_best_and_has_a_median() -> None:
    turns = [turn(auto=90, k4=80, k0=100), turn(auto=450, k4=400, k0=500), turn(auto=180, k4=160, k0=200)]
    found = summarise(turns)
    assert (found.num_bursts, found.best_fixed, found.off_tokens_per_s) == (3, "0", 200)
    assert found.over_best.ratio == pytest.approx(0.9)


def test_of_equally_good_ones_the_smallest_is_the_best_in_whatever_order_they_answered() -> None:
    assert summarise([turn(k10=100, k2=100, auto=100)]).best_fixed == "2"


def test_without_off_there_is_still_a_best() -> None:
    turns = [turn(k4=400, auto=200, k2=100), turn(k2=100, auto=800, k4=400)]
    found = summarise(turns)
    assert (found.best_fixed, found.off_tokens_per_s, dict(found.over_off)) == ("4", None, {})
    assert found.over_best.ratio == pytest.approx(1)
    *_, row, _, _ = table({("code", 8): turns}).splitlines()
    assert row == "| code | 8 | 2 | - | - (2.50) | - (2.50) | - (2.50) | 4 | 1.000 ± 0.693 |"


def test_rounds_and_drafts_count_over_all_bursts() -> None:
    turns = [
        {AUTO: Burst(100, 10, 30, 1.0), "0": Burst(100, 100, 0, 1.0)},
        {AUTO: Burst(100, 90, 20, 1.0), "0": Burst(100, 100, 0, 1.0)},
    ]
    assert summarise(turns).drafted_per_round == {AUTO: 0.5, "0": 0}


def test_cells_count_alike_and_their_errors_add_as_squares() -> None:
    found = over_cells([GeometricMean(math.log(2), 0.03), GeometricMean(math.log(8), 0.04)])
    assert found.ratio == pytest.approx(4)
    assert found.log_error == pytest.approx(0.025)
    assert over_cells([GeometricMean(0.0, 0.03), GeometricMean(0.0, None)]).error is None


def test_the_table_ends_with_means_over_cells() -> None:
    cells = {("code", 8): TURNS, ("prose", 8): [turn(auto=100, k0=100, k4=100)]}
    header, _, code, prose, mean, *_ = table(cells).splitlines()
    assert header == "| class | streams | bursts | off, tokens/s | auto / off | 4 / off | best k | auto / best k |"
    assert code == "| code | 8 | 3 | 100 | 4.000 ± 1.601 (2.50) | 4.000 ± 0.000 (2.50) | 4 | 1.000 ± 0.400 |"
    assert prose == "| prose | 8 | 1 | 100 | 1.000 (2.50) | 1.000 (2.50) | 0 | 1.000 |"
    assert mean == "| geometric mean |  |  |  | 2.000 | 2.000 |  | 1.000 |"


def test_a_file_has_every_burst_in_the_order_of_the_answers() -> None:
    found = rows({("code", 8): TURNS})
    assert [(row["turn"], row["setting"]) for row in found[:4]] == [(0, "4"), (0, AUTO), (0, "0"), (1, AUTO)]
    assert found[1] == {
        "task": "code",
        "streams": 8,
        "turn": 0,
        "setting": AUTO,
        "num_tokens": 200,
        "num_rounds": 100,
        "num_drafted": 250,
        "seconds": 1.0,
    }
