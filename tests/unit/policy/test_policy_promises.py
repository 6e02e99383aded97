"""How much of what plans promise comes true."""

from __future__ import annotations

import pytest

from deployments.policy.promises import Promises


def rounds(
    promises: Promises, count: int, *, num_sessions: int = 4, is_drafted: bool = True, come: float = 2.0
) -> None:
    """So many cycles of all sessions, in each of which each was promised two tokens."""
    for _ in range(count * num_sessions):
        promises.observe(num_sessions, is_drafted, 2.0, come)


def test_plans_are_believed_until_rounds_say_otherwise():
    promises = Promises()
    assert promises.kept(4, True) == 1.0
    rounds(promises, 2, come=1.4)
    assert 0.9 < promises.kept(4, True) < 1.0, "two cycles say little"
    rounds(promises, 200, come=1.4)
    assert promises.kept(4, True) == pytest.approx(0.73, abs=0.01), "a doubt is left for ever"


@pytest.mark.parametrize("come", [1.0, 2.0, 2.4])
def test_it_is_the_same_whatever_a_plan_promises(come: float):
    few, many = Promises(), Promises()
    for _ in range(100):
        few.observe(4, True, 2.0, come)
        many.observe(4, True, 20.0, 10.0 * come)
    assert few.kept(4, True) == pytest.approx(many.kept(4, True))


def test_kinds_of_rounds_and_companies_are_told_apart():
    promises = Promises()
    rounds(promises, 100, come=1.4)
    rounds(promises, 100, is_drafted=False, come=2.2)
    assert promises.kept(4, True) < 0.8
    assert promises.kept(4, False) > 1.05
    assert promises.kept(3, True) == promises.kept(4, True), "about as many"
    assert promises.kept(8, True) == promises.kept(1, True) == 1.0


def test_what_was_not_seen_for_long_counts_less():
    promises = Promises()
    rounds(promises, 100, come=1.4)
    before = promises.kept(4, True)
    rounds(promises, 2000, is_drafted=False)
    assert before + 0.05 < promises.kept(4, True) < 1.0
    rounds(promises, 10, come=1.4)
    assert promises.kept(4, True) > before, "ten cycles are not a hundred"


def test_no_plan_is_thought_to_be_far_off():
    promises = Promises()
    rounds(promises, 400, come=0.0)
    assert promises.kept(4, True) == 0.5
    rounds(promises, 800, come=40.0)
    assert promises.kept(4, True) == 1.25
