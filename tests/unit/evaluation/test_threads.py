"""Threads are compared as ratios within a repeat, and a setting leaves the rest of a configuration alone."""

from __future__ import annotations

from deployments.config import parse
from evaluation.load.threads import table, with_threads


def test_ratios_are_of_the_same_repeat() -> None:
    runs = {"1/1": [100.0, 50.0, 10.0], "2/1": [150.0, 100.0, 15.0]}
    *_, row = table({("prose", 4): runs}).splitlines()
    assert row == "| prose | 4 | 50 | 100 | 1.50 |"


def test_a_setting_changes_threads_alone() -> None:
    config = parse({"verifier": {"max_sessions": 7}})
    changed = with_threads(config, "2/null")
    assert (changed.verifier.num_threads, changed.drafter.num_threads) == (2, None)
    assert changed.verifier.max_sessions == 7
