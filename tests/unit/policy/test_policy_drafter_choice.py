from __future__ import annotations

import pytest

from deployments.policy.drafter_choice import (
    CatchUp,
    Choice,
    Explorer,
    LookupWatch,
    Offers,
    Option,
    Outlook,
    best_option,
    goodput,
)

FLAT = Outlook(step_ms=[10.0] * 9)
SURE = [0.9**j for j in range(1, 9)]
MTP = Option("mtp", SURE, [1.0] + [2.0 + k for k in range(1, 9)])


def lookup(offer: float, survival: list[float] = SURE) -> Option:
    return Option("prompt_lookup", survival, [1.0] * 9, offer=offer, is_watched=True)


def test_goodput_is_tokens_over_step_and_exposed_time_at_the_best_lookahead():
    option = Option("mtp", [0.5, 0.25], [1.0, 4.0, 5.0])
    outlook = Outlook(step_ms=[9.0, 10.0, 20.0])
    assert goodput(option, outlook) == pytest.approx(1.5 / 14.0)
    assert goodput(option, outlook._replace(lookahead=2)) == pytest.approx(1.75 / 25.0)
    assert goodput(option, outlook._replace(lookahead=0)) == pytest.approx(0.1)
    assert goodput(option, outlook._replace(lookahead=9)) == pytest.approx(1.75 / 25.0)


def test_rounds_without_an_offer_are_plain():
    outlook = Outlook(step_ms=[10.0, 10.0], lookahead=1)
    half = Option("prompt_lookup", [1.0], [0.0, 0.0], offer=0.5)
    assert goodput(half, outlook) == pytest.approx(1.5 / 10.0)
    assert goodput(half._replace(offer=0.0), outlook) == pytest.approx(0.1)


def test_a_text_that_repeats_itself_is_looked_up_and_another_is_not():
    assert best_option([MTP, lookup(0.95)], "mtp", FLAT) == "prompt_lookup"
    assert best_option([MTP, lookup(0.2)], "prompt_lookup", FLAT) == "mtp"


def test_what_is_hardly_better_is_left_alone():
    twin = MTP._replace(name="draft_model", away_ms=[1.0] + [1.9 + k for k in range(1, 9)])
    assert goodput(twin, FLAT) > goodput(MTP, FLAT)
    assert best_option([MTP, twin], "mtp", FLAT) == "mtp"
    assert best_option([MTP, twin], "", FLAT) == "draft_model"


def test_a_change_must_pay_in_the_tokens_that_are_left():
    bad = MTP._replace(name="draft_model", survival=[0.3, 0.1])
    late = MTP._replace(switch_ms=200.0)
    assert best_option([bad, late], "draft_model", FLAT) == "mtp"
    assert best_option([bad, late], "draft_model", FLAT._replace(remaining_tokens=12)) == "draft_model"


def test_no_option_is_no_drafter():
    assert best_option([], "mtp", FLAT) == ""
    assert best_option([lookup(0.5)], "mtp", FLAT) == "prompt_lookup"


def rounds(choice: Choice, options: list[Option], count: int) -> list[str]:
    names = []
    for _ in range(count):
        if choice.is_due():
            choice.decide(options, FLAT)
        names.append(choice.name)
    return names


def test_a_session_follows_its_text():
    choice = Choice()
    choice.begin("mtp")
    assert rounds(choice, [MTP, lookup(0.1)], 20) == ["mtp"] * 20
    assert rounds(choice, [MTP, lookup(1.0)], 8)[-1] == "prompt_lookup"
    assert rounds(choice, [MTP, lookup(0.1)], 8)[-1] == "mtp"
    assert choice.num_changes == 2


def test_probes_are_few_and_become_fewer():
    choice = Choice()
    choice.begin("prompt_lookup")
    poor = MTP._replace(survival=[0.1, 0.01])
    names = rounds(choice, [poor, lookup(1.0)], 4_000)
    assert 4 <= names.count("mtp") <= 40
    first = names.index("mtp")
    assert first >= 60
    assert names[first : first + 3].count("mtp") == 2


def test_what_would_have_to_be_made_ready_is_not_probed():
    choice = Choice()
    choice.begin("prompt_lookup")
    far = MTP._replace(survival=[0.1], switch_ms=50.0)
    assert "mtp" not in rounds(choice, [far, lookup(1.0)], 1_000)


def test_one_new_session_in_sixteen_tries_what_is_unknown():
    explorer, known = Explorer(), {"mtp": 5_000, "draft_model": 3}
    poor = Option("draft_model", [0.1], [1.0, 9.0])
    firsts = [explorer.first([MTP, poor], FLAT, known) for _ in range(64)]
    assert firsts.count("draft_model") == 4
    assert explorer.first([], FLAT, known) == ""
    known["draft_model"] = 256
    assert {explorer.first([MTP, poor], FLAT, known) for _ in range(64)} == {"mtp"}


def test_offers_are_learnt_by_class_and_then_by_session():
    offers, watch = Offers(), LookupWatch()
    assert offers.rate("code") == offers.rate("prose") == pytest.approx(0.15)
    for _ in range(400):
        offers.observe("code", True)
    assert offers.rate("code") > 0.8
    assert offers.rate("prose") == pytest.approx(0.15)
    assert watch.offer(offers.rate("code")) == pytest.approx(offers.rate("code"))
    for _ in range(60):
        watch.count(False)
    assert watch.offer(offers.rate("code")) < 0.4


def test_the_committed_text_judges_what_was_not_verified():
    watch = LookupWatch()
    watch.hold(3, (7, 8, 9))
    assert watch.judged((1, 2, 3, 7)) is None
    assert watch.is_open
    assert watch.judged((1, 2, 3, 7, 5)) == (1, 2)
    assert not watch.is_open
    watch.hold(3, (7, 8))
    assert watch.judged((1, 2, 3, 7, 8, 6)) == (2, 2)  # what came after it was never guessed


def test_catching_up_is_learnt_by_length():
    costs = CatchUp()
    for num_tokens in (100, 1_000, 4_000) * 20:
        costs.observe(num_tokens, 3.0 + 0.02 * num_tokens)
    assert costs.predict(2_000) == pytest.approx(43.0, rel=0.1)
