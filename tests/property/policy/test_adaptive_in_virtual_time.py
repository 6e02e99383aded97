"""Adaptive lookahead against fixed ones in virtual time, at a few points of the sweep in docs/benchmarks.md."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from autoscaling.simulator.run import Scenario, simulate
from autoscaling.simulator.text import RecordedText, Recording, recordings
from deployments.messages import RequestClass
from deployments.policy.classes import REQUEST_CLASSES
from deployments.policy.confidence import CONFIDENCE_EDGES, bin_of
from deployments.policy.draft_waiting import DraftPolicy
from deployments.policy.hardware import Pair, pairs
from deployments.policy.speculation import SpeculationSettings

PAIR = pairs()["h100x2-l4-31b"]
COMPUTE_BOUND = pairs()["cpu-150m"]


def speed(classes: tuple[RequestClass, ...], concurrency: int, lookahead: int | None, **changes: object) -> float:
    fields = {"pair": PAIR, "num_tokens": 5_000, "warm_up_tokens": 4_000, **changes}
    scenario = Scenario(concurrency=concurrency, classes=classes, lookahead=lookahead, **fields)  # type: ignore[arg-type]
    return simulate(scenario).tokens_per_s


@pytest.mark.parametrize(
    ("request_class", "concurrency", "fixed"),
    [("structured", 1, (4, 5, 6)), ("prose", 1, (2, 3, 4)), ("code", 16, (2, 3, 4))],
)
def test_a_class_of_its_own_is_served_as_by_its_best_lookahead(
    request_class: RequestClass, concurrency: int, fixed: tuple[int, ...]
):
    best = max(speed((request_class,), concurrency, lookahead) for lookahead in fixed)
    # 0.98, not 0.99: a short run has its learning in it.
    assert speed((request_class,), concurrency, None) >= 0.98 * best


def test_speculation_is_off_where_it_does_not_pay():
    off = speed(("creative",), 16, 0, pair=COMPUTE_BOUND)
    assert speed(("creative",), 16, 2, pair=COMPUTE_BOUND) < 0.9 * off
    assert speed(("creative",), 16, None, pair=COMPUTE_BOUND) >= 0.98 * off


def test_mixed_texts_are_served_better_than_by_any_one_lookahead_when_they_do_not_share_a_step():
    best = max(speed(REQUEST_CLASSES, 1, lookahead, prompt_tokens=16) for lookahead in (2, 3, 4))
    assert speed(REQUEST_CLASSES, 1, None, prompt_tokens=16) >= best


def test_sessions_that_have_parted_are_drafted_for_together_again_where_turns_queue_up_at_the_drafter(
    monkeypatch: pytest.MonkeyPatch,
):
    rounds = {"concurrency": 8, "lookahead": 12, "output_tokens": 80}
    joined = speed(("structured",), **rounds)
    monkeypatch.setattr(DraftPolicy, "wait_until_ms", lambda *args: None)
    assert joined > 1.2 * speed(("structured",), **rounds)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_recorded_answers_of_all_kinds_are_served_as_by_the_best_lookahead_for_all(concurrency: int):
    classes = tuple(recordings())
    best = max(speed(classes, concurrency, lookahead, recorded=True) for lookahead in (2, 3, 4, 6))
    assert speed(classes, concurrency, None, recorded=True) >= (1.05 if concurrency == 1 else 0.97) * best


def test_a_wrong_class_costs_little():
    right = speed(("structured",), 4, None)
    assert speed(("structured",), 4, None, told_class="creative") >= 0.95 * right


def test_two_runs_are_the_same_to_the_token():
    first, second = (speed(("code",), 4, None, jitter=0.1) for _ in range(2))
    assert first == second


def test_the_prediction_error_is_under_ten_per_cent_with_jitter():
    scenario = Scenario(pair=PAIR, concurrency=8, classes=("code",), num_tokens=6_000, jitter=0.1)
    assert simulate(scenario).prediction_error < 0.1


def test_an_idle_drafter_costs_nothing_with_a_constant_policy_of_zero():
    settings = SpeculationSettings(policy="constant", num_speculative_tokens=0)
    assert speed(("code",), 4, None, policy=settings) == pytest.approx(speed(("code",), 4, 0), rel=0.01)


def test_every_pair_names_its_hardware():
    found: dict[str, Pair] = pairs()
    assert all(pair.description and len(pair.verify.tokens) == len(pair.verify.step_ms) for pair in found.values())


def test_a_recorded_text_holds_as_it_was_seen_to():
    text = RecordedText(Recording([0, 2, 1, 0, 0, 3, 2, 1], ["", "775", "75", "5", "0", "765", "65", "5"]))
    assert text.length == 8
    assert [text.num_held(position, 8) for position in range(1, 6)] == [2, 1, 0, 0, 3]
    assert text.num_held(5, 2) == 2
    assert text.num_held(8, 4) == 4, "the answer is over"
    assert [bin_of(text.confidence(1, index) or 0.0) for index in range(5)] == [7, 7, 5, 5, 5], "the last goes on"
    assert text.confidence(0, 0) is None


def test_recordings_are_in_the_bins_that_confidences_are_told_apart_by():
    text = files("autoscaling.simulator").joinpath("recorded.json").read_text("utf-8")
    assert tuple(json.loads(text)["edges"]) == CONFIDENCE_EDGES
    for name, answers in recordings().items():
        assert len(answers) >= 20, name
        for held, confidences in answers:
            assert len(held) == len(confidences)
            known = zip(held[1:], confidences[1:], strict=True)
            assert all(len(bins) >= min(count, 1) and set(bins) <= set("01234567") for count, bins in known)


def test_drafts_of_recorded_texts_end_early():
    told, open_one = (
        simulate(Scenario(pair=PAIR, concurrency=1, classes=("prose",), lookahead=lookahead, num_tokens=3_000,
                          warm_up_tokens=1_000, recorded=True))
        for lookahead in (12, None)
    )  # fmt: skip
    assert told.mean_lookahead > 10
    assert 1.0 < open_one.mean_lookahead < 6
