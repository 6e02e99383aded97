"""Survival: censored observations, classes that evidence overrides, drafters without skill, and confidence."""

from __future__ import annotations

import math
import random

import pytest

from deployments.messages import RequestClass
from deployments.policy.acceptance import DrafterAcceptance, SessionAcceptance, stage_of
from deployments.policy.classes import REQUEST_CLASSES

STRUCTURED = (0.99, 0.99, 0.98, 0.92, 0.91, 0.73)
PROSE = (0.78, 0.70, 0.74, 0.76, 0.70, 0.70)


def rounds(session: SessionAcceptance, rates: tuple[float, ...], count: int, lookahead: int, seed: int = 1) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        held = 0
        while held < lookahead and chance.random() < rates[min(held, len(rates) - 1)]:
            held += 1
        session.observe(held, lookahead)


def test_survival_falls_along_a_session():
    session = SessionAcceptance(DrafterAcceptance(), "code", 8)
    assert len(session.survival) == 8
    assert session.survival == sorted(session.survival, reverse=True)


def test_a_whole_acceptance_says_nothing_of_the_positions_after_it():
    session = SessionAcceptance(DrafterAcceptance(), None, 8)
    before = session.rates[5]
    chance = session.rates[1]
    for _ in range(20):
        session.observe(2, 2)
    assert session.rates[1] > chance
    # Only the belief in the class moves what lies beyond.
    assert session.rates[5] >= before
    assert session.request_class == "structured"


def test_a_token_that_was_not_verified_but_held_is_counted():
    told, untold = (SessionAcceptance(DrafterAcceptance(), "code", 8) for _ in range(2))
    for _ in range(10):
        told.observe(1, 1, is_next_held=True)
        untold.observe(1, 1)
    assert told.rates[1] > untold.rates[1]


def test_cutting_off_unlikely_tokens_does_not_make_the_others_look_likelier():
    """Half of the first tokens hold; those that do not look so, and are cut off before anybody has verified them."""
    chance, session = random.Random(2), SessionAcceptance(DrafterAcceptance(), "code", 8)
    found = []
    for _ in range(400):
        if chance.random() < 0.5:
            session.observe(4, 4)
        else:
            session.observe(0, 0, is_next_held=False)
        found.append(session.rates[0])
    assert sum(found[100:]) / 300 == pytest.approx(0.5, abs=0.06)


def test_a_round_of_which_nothing_was_seen_is_none():
    session = SessionAcceptance(DrafterAcceptance(), "code", 8)
    before = list(session.rates)
    session.observe(0, 0)
    assert session.rates == before


@pytest.mark.parametrize(
    ("told", "rates", "expected"), [("structured", PROSE, 0.78), ("prose", STRUCTURED, 0.99), (None, STRUCTURED, 0.99)]
)
def test_evidence_overrides_the_class_within_six_rounds(told, rates, expected):
    """Over many sessions: the mean first rate is within 0.12 of the truth after six rounds of four."""
    drafter = DrafterAcceptance()
    found = []
    for seed in range(60):
        session = SessionAcceptance(drafter, told, 8)
        rounds(session, rates, 6, 4, seed)
        found.append(session.rates[0])
    assert sum(found) / len(found) == pytest.approx(expected, abs=0.12)


def test_a_session_that_changes_its_text_is_followed():
    drafter = DrafterAcceptance()
    session = SessionAcceptance(drafter, "prose", 8)
    rounds(session, PROSE, 40, 3)
    low = session.survival[3]
    rounds(session, (1.0,) * 6, 6, 3)
    assert session.survival[3] > 0.5 > low
    rounds(session, PROSE, 6, 5, seed=3)
    assert session.survival[3] < 0.6


def test_a_drafter_without_skill_is_not_expected_to_be_better_with_the_next_session():
    drafter = DrafterAcceptance()
    for _ in range(6):
        rounds(SessionAcceptance(drafter, "code", 8), (0.0,), 10, 4)
    for request_class in ("code", "prose", "reasoning"):
        assert SessionAcceptance(drafter, request_class, 8).rates[0] < 0.3


def test_a_session_begins_where_earlier_ones_of_its_class_ended():
    drafter = DrafterAcceptance()
    assert drafter.first_beliefs("code")[REQUEST_CLASSES.index("code")] == pytest.approx(0.7), "nothing was seen"
    sessions = []
    for seed in range(20):
        sessions.append(SessionAcceptance(drafter, "code", 8))
        rounds(sessions[-1], STRUCTURED, 12, 4, seed)
    ended = sum(session.beliefs[REQUEST_CLASSES.index("structured")] for session in sessions) / len(sessions)
    begins = SessionAcceptance(drafter, "code", 8).beliefs
    assert ended > 0.15
    assert abs(begins[REQUEST_CLASSES.index("structured")] - ended) < abs(0.075 - ended) / 2
    assert sum(begins) == pytest.approx(1.0)
    assert SessionAcceptance(drafter, "prose", 8).beliefs[REQUEST_CLASSES.index("prose")] == pytest.approx(0.7)


def test_free_text_is_foreseen_better_as_it_grows_and_a_record_hardly():
    """Hardly, as whoever is told that it is one may be wrong."""
    for name, grows in (("code", True), ("prose", True), ("structured", False)):
        session = SessionAcceptance(DrafterAcceptance(), name, 8)
        first = session.survival[3]
        session.move_to(stage_of(100))
        assert (session.survival[3] > 2.0 * first) == grows, name
        assert session.survival[3] > first
    assert [stage_of(n) for n in (0, 7, 8, 15, 16, 31, 32, 10_000)] == [0, 0, 1, 1, 2, 2, 3, 6]


@pytest.mark.parametrize(("early", "late"), [(0.8, 0.8), (0.8, 0.5), (0.4, 0.9)])
def test_what_a_stage_is_worth_is_learnt(early: float, late: float):
    """From sessions that were all as good at their beginning and as good later on: a new one is foreseen so."""
    drafter = DrafterAcceptance()
    for seed in range(60):
        session = SessionAcceptance(drafter, "code", 8)
        rounds(session, (early,), 4, 4, seed)
        session.move_to(4)
        rounds(session, (late,), 4, 4, 1000 + seed)
    session = SessionAcceptance(drafter, "code", 8)
    assert session.rates[0] == pytest.approx(early, abs=0.12)
    session.move_to(4)
    assert session.rates[0] == pytest.approx(late, abs=0.12)


def test_a_stage_that_nobody_has_seen_is_better_than_a_bad_beginning_by_as_much_as_usual():
    drafter = DrafterAcceptance()
    for seed in range(60):
        rounds(SessionAcceptance(drafter, "prose", 8), (0.5,), 6, 4, seed)
    session = SessionAcceptance(drafter, "prose", 8)
    assert session.rates[0] == pytest.approx(0.5, abs=0.1)
    session.move_to(4)
    assert 0.6 < session.rates[0] < 0.8


def test_a_sessions_own_bad_beginning_is_not_held_against_it_later():
    session = SessionAcceptance(DrafterAcceptance(), "code", 8)
    rounds(session, (0.5,), 6, 4)
    before, ahead = session.rates[0], session.survival_ahead[0]
    session.move_to(stage_of(40))
    assert session.rates[0] > before + 0.1
    assert session.rates[0] == pytest.approx(ahead, abs=0.05), "so it was to be expected from the first"
    session.move_to(6)
    assert session.survival_ahead == session.survival, "it gets no better"


def test_confidence_sharpens_the_rate_when_it_has_shown_its_worth():
    drafter = DrafterAcceptance()
    session = SessionAcceptance(drafter, "prose", 8)
    first = session.sharpened((0.2, 0.97))
    assert 0.2 < first[0] < 0.6, "nothing is known of it yet"
    assert 0.8 * first[0] < first[1] < first[0], "the second holds if the first does"
    chance = random.Random(4)
    for _ in range(400):
        confidence = chance.random()
        held = chance.random() < confidence
        session.observe(int(held), 1, confidences=(confidence,))
    assert session.sharpened((0.97,))[0] > 0.8
    assert session.sharpened((0.05,))[0] < 0.25


def test_confidence_without_worth_changes_nothing():
    drafter = DrafterAcceptance()
    session = SessionAcceptance(drafter, "prose", 8)
    chance = random.Random(4)
    for _ in range(400):
        session.observe(int(chance.random() < 0.6), 1, confidences=(chance.random(),))
    assert session.sharpened((0.9,))[0] == pytest.approx(session.sharpened((0.2,))[0], abs=0.15)


def runs_of(chances: tuple[float, float], told: RequestClass | None = "code", seed: int = 3) -> DrafterAcceptance:
    """Rounds of one token, which holds with the second chance if the one before did, else with the first."""
    drafter, chance = DrafterAcceptance(), random.Random(seed)
    session, held = SessionAcceptance(drafter, told, 4), 0
    for _ in range(600):
        held = int(chance.random() < chances[held])
        session.observe(held, 1)
    return drafter


def test_runs_show_in_the_first_tokens_after_whole_proposals():
    assert DrafterAcceptance().run_log_odds == 0.0
    assert runs_of((0.7, 0.7)).run_log_odds < 0.3
    assert runs_of((0.5, 0.85)).run_log_odds == pytest.approx(math.log(0.85 / 0.15), rel=0.25)
    assert runs_of((0.8, 0.4)).run_log_odds == 0.0


def test_sessions_that_differ_by_their_class_are_no_runs():
    drafter, chance = DrafterAcceptance(), random.Random(5)
    for told, rate in (("structured", 0.95), ("prose", 0.5)) * 20:
        session = SessionAcceptance(drafter, told, 4)  # type: ignore[arg-type]
        for _ in range(30):
            session.observe(int(chance.random() < rate), 1)
    assert drafter.run_log_odds < 0.3


def beside_a_censored_one(
    whole: tuple[int, int], num_rounds: int = 30
) -> tuple[list[SessionAcceptance], list[DrafterAcceptance]]:
    """After drafts that may end early, some of which held as far as they went: (tokens, asked), and the same of which
    nobody knows that they might have been longer.
    """
    drafters = [DrafterAcceptance(), DrafterAcceptance()]
    sessions = [SessionAcceptance(drafter, "code", 8) for drafter in drafters]
    num_drafted, num_asked = whole
    for _ in range(num_rounds):
        for session, asked in zip(sessions, (num_asked, 0), strict=True):
            session.observe(num_drafted, num_drafted, confidences=(0.9,) * num_drafted, num_asked=asked)
            session.observe(0, num_asked, confidences=(0.2,) * num_asked, num_asked=asked)
    return sessions, drafters


def test_a_draft_that_ended_early_and_held_whole_is_a_miss_of_the_position_after_it():
    (early, censored), _ = beside_a_censored_one((2, 8))
    assert early.rates[:2] == pytest.approx(censored.rates[:2], abs=0.05)
    assert early.rates[2] < 0.6 * censored.rates[2]
    assert early.survival[3] < 0.6 * censored.survival[3]
    assert SessionAcceptance(DrafterAcceptance(), "code", 8).rates[2] == pytest.approx(censored.rates[2], abs=0.2)


def test_a_draft_that_had_all_that_was_asked_for_is_none():
    (early, censored), _ = beside_a_censored_one((8, 8))
    assert early.rates == censored.rates
    assert early.drafted == []


def test_where_a_draft_ended_says_nothing_of_confidence_and_of_runs():
    (early, censored), (drafter, other) = beside_a_censored_one((2, 8))
    assert drafter.calibration.as_bytes() == other.calibration.as_bytes()
    assert drafter.run_log_odds == other.run_log_odds
    assert (early.drafted != [], censored.drafted) == (True, [])
    sharp = (early.sharpened((0.9, 0.9)), censored.sharpened((0.9, 0.9)))
    assert sharp[0] == sharp[1]


def test_runs_of_drafts_that_end_early_are_those_of_what_was_drafted():
    """What held as far as it went is whole: a first token is likelier to hold after it, if those come in runs."""
    drafter, chance = DrafterAcceptance(), random.Random(3)
    session, held = SessionAcceptance(drafter, "code", 8), 0
    for _ in range(600):
        held = int(chance.random() < (0.5, 0.85)[held])
        session.observe(held, 1, confidences=(0.9,), num_asked=8)
    assert drafter.run_log_odds == pytest.approx(math.log(0.85 / 0.15), rel=0.25)


def test_what_was_drafted_and_cut_off_does_not_count_though_it_held():
    """Not for the rates, which are those of what comes of asking; confidence in it has shown its worth."""
    drafters = [DrafterAcceptance(), DrafterAcceptance()]
    early, censored = (SessionAcceptance(drafter, "code", 8) for drafter in drafters)
    for _ in range(30):
        early.observe(2, 2, is_next_held=True, confidences=(0.9, 0.9, 0.2, 0.2), num_asked=8)
        censored.observe(2, 2, is_next_held=True, confidences=(0.9, 0.9, 0.2, 0.2))
    assert early.rates[2] < 0.5 < censored.rates[2]
    assert early.sharpened((0.2,)) == censored.sharpened((0.2,))
    assert early.sharpened((0.2,))[0] > 0.8
    assert sum(early.drafted) < 5
