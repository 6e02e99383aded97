"""Costs are learnt from what ran: a staircase, a plane beyond it, and what changes on the way."""

from __future__ import annotations

import random

import pytest

from deployments.policy.costs import DraftCosts, StepCosts
from deployments.policy.regression import Regression
from deployments.timing import StepShape, StepTiming


def shape(num_sequences: int, num_tokens: int, **changes: int) -> StepShape:
    return StepShape(num_sequences=num_sequences, num_tokens=num_tokens, **changes)


def staircase(num_tokens: int) -> float:
    """Eight tokens to a stair, as captured shapes have it."""
    return 10.0 + 2.0 * -(-num_tokens // 8)


def test_a_regression_finds_the_weights_and_keeps_those_nobody_exercises():
    fit = Regression((1.0, 1.0, 7.0), (10.0, 10.0, 10.0))
    for x in range(1, 60):
        fit.observe((1.0, x, 0.0), 3.0 + 0.5 * x)
    assert fit.weights == pytest.approx([3.0, 0.5, 7.0], rel=0.02)


def test_a_regression_has_no_negative_weight():
    fit = Regression((1.0, 1.0), (10.0, 10.0))
    for x in range(1, 40):
        fit.observe((1.0, x), 50.0 - x)
    assert min(fit.weights) == 0.0


def test_the_staircase_is_learnt_where_steps_have_run():
    costs = StepCosts()
    for _ in range(5):
        for num_tokens in range(1, 41):
            costs.observe(shape(4, num_tokens), staircase(num_tokens))
    for num_tokens in (1, 8, 9, 24, 25, 40):
        assert costs.predict(shape(4, num_tokens)) == pytest.approx(staircase(num_tokens), rel=0.03)
    assert costs.error.median < 0.05


def test_the_curve_is_the_prediction_of_each_longer_step():
    costs = StepCosts()
    for num_tokens in range(1, 41):
        costs.observe(shape(4, num_tokens), staircase(num_tokens))
    curve = costs.curve(shape(4, 6, num_context_tokens=2048), 100)
    predicted = [costs.predict(shape(4, 6 + more, num_context_tokens=2048)) for more in range(101)]
    assert curve == pytest.approx(predicted)


def test_timings_of_the_warm_up_are_believed_at_once():
    costs = StepCosts()
    costs.seed(StepTiming(shape=shape(n, n * k), step_ms=staircase(n * k)) for n in (1, 4, 8) for k in (1, 2, 5))
    for n, k in ((1, 5), (4, 2), (8, 5)):
        assert costs.predict(shape(n, n * k)) == pytest.approx(staircase(n * k), rel=0.1)


def test_the_error_is_under_ten_per_cent_in_a_steady_run_with_noise_and_hiccups():
    chance = random.Random(1)
    costs = StepCosts()
    for _ in range(600):
        sequences = chance.randint(1, 16)
        tokens = sequences * chance.randint(1, 6)
        context = sequences * chance.randint(100, 2000)
        true_ms = staircase(tokens) + 0.1 * sequences + context / 4096
        hiccup = 4.0 if chance.random() < 0.02 else 1.0
        costs.observe(shape(sequences, tokens, num_context_tokens=context), true_ms * chance.gauss(1.0, 0.05) * hiccup)
    assert costs.error.median < 0.1


def test_a_machine_that_becomes_slower_is_followed():
    costs = StepCosts()
    for factor in (1.0, 3.0):
        for _ in range(60):
            costs.observe(shape(4, 12), factor * staircase(12))
    assert costs.predict(shape(4, 12)) == pytest.approx(3.0 * staircase(12), rel=0.1)


def test_a_known_shape_keeps_its_time_when_others_teach_the_plane():
    costs = StepCosts()
    for _ in range(20):
        costs.observe(shape(1, 1), 5.0)
    for _ in range(200):
        costs.observe(shape(16, 64), 300.0)
    assert costs.predict(shape(1, 1)) == pytest.approx(5.0, rel=0.1)


def test_drafts_cost_by_their_longest_lookahead_and_their_tokens():
    costs = DraftCosts()
    for _ in range(10):
        for longest in (1, 2, 4, 8):
            for sessions in (1, 4, 16):
                costs.observe(longest, longest * sessions, 0.4 + 3.1 * longest + 0.05 * longest * sessions)
    assert costs.predict(4, 8) == pytest.approx(0.4 + 12.4 + 0.4, rel=0.05)
    assert costs.predict(0, 0) == 0.0


def test_all_steps_are_run_that_are_asked_for_until_a_batch_has_ended_early():
    costs = DraftCosts()
    assert costs.steps(0) == [0.0]
    assert costs.steps(4) == [0.0, 1.0, 2.0, 3.0, 4.0]
    for num_asked in (2, 6, 4):
        costs.observe_steps(num_asked, num_asked)
    assert costs.steps(8) == [*map(float, range(9))]


def test_fewer_steps_are_expected_where_batches_end_early():
    costs = DraftCosts()
    costs.observe_steps(6, 3)
    once = costs.steps(8)
    assert once[:4] == [0.0, 1.0, 2.0, 3.0]
    assert once[6] == pytest.approx(3.0 + 3 * 0.5), "one batch says as much as what was assumed before it"
    assert once[8] - once[6] == 2.0, "further ones were not asked for"
    for _ in range(400):
        costs.observe_steps(6, 3)
    assert costs.steps(8) == pytest.approx([0.0, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 4.0, 5.0], abs=0.01)


def test_steps_are_expected_by_how_often_they_are_run():
    costs = DraftCosts()
    for num_run in (1, 2, 4, 4) * 200:
        costs.observe_steps(4, num_run)
    assert costs.steps(4) == pytest.approx([0.0, 1.0, 1.75, 2.25, 2.75], abs=0.06)


def test_batches_that_ended_early_are_forgotten():
    costs = DraftCosts()
    for _ in range(400):
        costs.observe_steps(6, 3)
    for _ in range(400):
        costs.observe_steps(6, 6)
    assert costs.steps(6)[6] == pytest.approx(6.0, abs=0.01)


def test_a_batch_tells_nothing_of_steps_that_it_was_not_asked_for():
    costs = DraftCosts()
    for _ in range(400):
        costs.observe_steps(6, 3)
    before = costs.steps(6)
    for _ in range(400):
        costs.observe_steps(2, 2)
    assert costs.steps(6) == pytest.approx(before)
