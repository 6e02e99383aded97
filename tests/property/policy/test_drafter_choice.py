"""The choice against the slow, obvious one, and what must hold of it whatever the numbers are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.policy.drafter_choice import Choice, Option, Outlook, best_option, goodput

DEPTH = 6
chances = st.floats(0.01, 0.99)
times = st.floats(0.1, 50.0)


@st.composite
def options(draw: st.DrawFn, names: tuple[str, ...] = ("mtp", "draft_model", "prompt_lookup")) -> list[Option]:
    made = []
    for name in names:
        rates = draw(st.lists(chances, min_size=DEPTH, max_size=DEPTH))
        survival, product = [], 1.0
        for rate in rates:
            product *= rate
            survival.append(product)
        away = sorted(draw(st.lists(times, min_size=DEPTH + 1, max_size=DEPTH + 1)))
        made.append(Option(name, survival, away, offer=draw(chances), switch_ms=draw(st.floats(0.0, 500.0))))
    return made


@st.composite
def outlooks(draw: st.DrawFn) -> Outlook:
    steps = sorted(draw(st.lists(times, min_size=DEPTH + 1, max_size=DEPTH + 1)))
    return Outlook(steps, draw(st.integers(1, 1000)), draw(st.none() | st.integers(0, DEPTH)))


def slow_goodput(option: Option, outlook: Outlook) -> float:
    """Every number of tokens that could hold, weighed by its chance, at every lookahead."""
    rates = []
    for k in range(DEPTH + 1):
        if outlook.lookahead not in (None, k):
            continue
        survival = [1.0, *option.survival[:k]]
        tokens = sum((j + 1) * (survival[j] - (survival[j + 1] if j < k else 0.0)) for j in range(k + 1))
        plain_ms = outlook.step_ms[0] + option.away_ms[0]
        drafted_ms = outlook.step_ms[k] + option.away_ms[k] if k else plain_ms
        offer = option.offer
        rates.append((offer * tokens + 1 - offer) / (offer * drafted_ms + (1 - offer) * plain_ms))
    return max(rates)


@given(options(), outlooks())
def test_goodput_is_the_expectation(found: list[Option], outlook: Outlook) -> None:
    for option in found:
        assert goodput(option, outlook) == pytest.approx(slow_goodput(option, outlook))


@given(options(), outlooks(), st.sampled_from(["mtp", "draft_model", "prompt_lookup", "gone"]))
def test_the_choice_is_there_and_never_slower_than_what_it_leaves(
    found: list[Option], outlook: Outlook, current: str
) -> None:
    chosen = best_option(found, current, outlook)
    rates = {option.name: goodput(option, outlook) for option in found}
    assert chosen in rates
    assert rates[chosen] >= rates.get(current, max(rates.values()))
    if current in rates and all(rate <= 1.03 * rates[current] for rate in rates.values()):
        assert chosen == current


@given(options(), outlooks())
def test_choosing_again_changes_nothing(found: list[Option], outlook: Outlook) -> None:
    chosen = best_option(found, "mtp", outlook)
    free = [option._replace(switch_ms=0.0) for option in found]
    settled = best_option(free, best_option(free, chosen, outlook), outlook)
    assert best_option(free, settled, outlook) == settled


@given(options(), outlooks(), st.floats(0.0, 1000.0))
def test_a_dearer_change_is_never_made_where_a_cheaper_one_was_not(
    found: list[Option], outlook: Outlook, more_ms: float
) -> None:
    if best_option(found, "mtp", outlook) == "mtp":
        dearer = [option._replace(switch_ms=option.switch_ms + more_ms) for option in found]
        assert best_option(dearer, "mtp", outlook) == "mtp"


@given(options(), outlooks())
def test_probes_cost_at_most_two_rounds_in_sixty_four(found: list[Option], outlook: Outlook) -> None:
    choice, best = Choice(), best_option(found, "", outlook)
    choice.begin(best)
    others = 0
    for _ in range(640):
        if choice.is_due():
            choice.decide(found, outlook)
        others += choice.name != best
    assert others <= 2 * 640 / 64
