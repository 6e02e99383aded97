"""What a drafter's confidence is worth, learnt from what held, and how far drafts go that may end early."""

from __future__ import annotations

import random
from itertools import accumulate
from operator import mul

import pytest

from deployments.policy.confidence import CONFIDENCE_EDGES, NUM_BINS, Calibration, Reach, bin_of


def calibrated(confidence: float, rate: float, num_tokens: int = 1500, seed: int = 1) -> Calibration:
    """After drafts of one token, of which the drafter was so sure and which held so often."""
    calibration, chance = Calibration(), random.Random(seed)
    for _ in range(num_tokens):
        calibration.observe((confidence,), int(chance.random() < rate))
    return calibration


def test_a_confidence_at_an_edge_is_of_the_bin_above_it():
    assert [bin_of(edge) for edge in CONFIDENCE_EDGES] == list(range(1, NUM_BINS))
    assert [bin_of(edge - 1e-6) for edge in CONFIDENCE_EDGES] == list(range(NUM_BINS - 1))
    assert (bin_of(0.0), bin_of(1.0)) == (0, NUM_BINS - 1)


def test_confidence_is_worth_something_before_anything_was_seen():
    chances = Calibration().chances((0.05, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97, 1.0))
    assert chances == sorted(chances)
    assert chances[0] < 0.5 < 0.9 < chances[-1]


def test_a_drafter_that_is_too_sure_of_itself_is_found_out():
    calibration = calibrated(0.9, 0.5)
    assert calibration.chances((0.9,)) == pytest.approx([0.5], abs=0.06)
    others = (0.05, 0.2, 0.4, 0.6, 0.8, 0.97, 1.0)
    assert calibration.chances(others) == Calibration().chances(others), "of other confidences nothing was seen"


def test_a_drafter_that_becomes_better_is_followed():
    calibration = calibrated(0.9, 0.2)
    low = calibration.chances((0.9,))[0]
    for _ in range(1500):
        calibration.observe((0.9,), 1)
    assert calibration.chances((0.9,))[0] > 0.9 > 0.3 > low


def test_of_a_draft_the_tokens_that_held_count_and_the_one_that_did_not():
    calibration, before = Calibration(), Calibration().chances((0.97, 0.6, 0.2))
    calibration.observe((0.97, 0.6, 0.2), 2)
    first, second, third = calibration.chances((0.97, 0.6, 0.2))
    assert first > before[0]
    assert second > before[1]
    assert third < before[2]


def test_the_bytes_are_the_chances_of_all_bins_as_they_are_now():
    calibration = Calibration()
    inside = (0.0, *CONFIDENCE_EDGES)
    for _ in range(3):
        assert list(calibration.as_bytes()) == [round(255 * chance) for chance in calibration.chances(inside)]
        for _ in range(20):
            calibration.observe((0.99, 0.2), 1)
    assert len(calibration.as_bytes()) == NUM_BINS


def test_a_drafter_that_never_errs_and_one_that_always_does_stay_within_a_byte():
    always, never = calibrated(1.0, 1.0, 20_000), calibrated(0.0, 0.0, 20_000)
    assert (always.as_bytes()[-1], always.nexts(1)) == (255, b"\xff")
    assert (never.as_bytes()[0], never.nexts(1)) == (0, b"\x00")


def test_tokens_to_come_hold_as_often_as_those_at_their_index_did():
    calibration, chance = Calibration(), random.Random(2)
    assert len(set(calibration.nexts(5))) == 1, "nothing is known of any"
    unknown = calibration.nexts(5)[0]
    rates = (0.9, 0.3, 0.6)
    for _ in range(4000):
        held = 0
        while held < 3 and chance.random() < rates[held]:
            held += 1
        calibration.observe((0.5,) * min(3, held + 1), held)
    assert [one / 255 for one in calibration.nexts(3)] == pytest.approx(rates, abs=0.06)
    assert calibration.nexts(5)[3:] == bytes([unknown] * 2)
    assert calibration.nexts(0) == b""


# -- reach ------------------------------------------------------------------------------------


class Drafter:
    """Tokens hold with chances by index. While all hold a draft ends before each of them with a chance of `ends`;
    behind one that does not hold it goes on from token to token with a chance of `goes_on`.
    """

    def __init__(self, rates: tuple[float, ...], ends: float, goes_on: float, seed: int = 3) -> None:
        self.rates = rates
        self.ends = ends
        self.goes_on = goes_on
        self.chance = random.Random(seed)

    @property
    def survival(self) -> list[float]:
        return list(accumulate(((1.0 - self.ends) * rate for rate in self.rates), mul))

    def draft(self) -> tuple[int, int]:
        """How many tokens it drafts, and how many of them hold."""
        asked, held = len(self.rates), 0
        while held < asked:
            if self.chance.random() < self.ends:
                return held, held
            if self.chance.random() >= self.rates[held]:
                break
            held += 1
        drafted = min(asked, held + 1)
        while held < drafted < asked and self.chance.random() < self.goes_on:
            drafted += 1
        return drafted, held


def observed(drafter: Drafter, num_drafts: int = 4000) -> tuple[Reach, list[float]]:
    """What was learnt, and how often each position was drafted."""
    reach, counts = Reach(), [0] * len(drafter.rates)
    for _ in range(num_drafts):
        drafted, held = drafter.draft()
        reach.observe(len(drafter.rates), drafted, drafted, held)
        for position in range(drafted):
            counts[position] += 1
    return reach, [count / num_drafts for count in counts]


@pytest.mark.parametrize("num_held", [0, 1, 2])
def test_all_positions_are_drafted_until_a_draft_has_ended_early(num_held: int):
    drafter = Drafter((0.7,) * 6, ends=0.0, goes_on=1.0)
    reach, shares = observed(drafter, 200)
    assert shares == [1.0] * 6
    assert reach.drafted(drafter.survival) == []
    reach.observe(6, 2, 2, num_held)
    assert sum(reach.drafted(drafter.survival)) < 6.0


@pytest.mark.parametrize("ends", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("goes_on", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("rate", [0.9, 0.7, 0.4])
def test_positions_are_drafted_as_often_as_is_foreseen(rate: float, goes_on: float, ends: float):
    drafter = Drafter((rate,) * 8, ends, goes_on)
    reach, shares = observed(drafter)
    foreseen = reach.drafted(drafter.survival)
    assert foreseen == pytest.approx(shares, abs=0.05)
    assert sum(foreseen) == pytest.approx(sum(shares), rel=0.1)


def test_positions_that_differ_are_drafted_as_often_as_is_foreseen():
    drafter = Drafter((0.95, 0.9, 0.5, 0.5, 0.9, 0.9), ends=0.0, goes_on=0.5)
    reach, shares = observed(drafter)
    assert reach.drafted(drafter.survival) == pytest.approx(shares, abs=0.05)


def test_whatever_counts_for_certain_is_drafted():
    reach, _ = observed(Drafter((0.5,) * 4, ends=0.2, goes_on=0.2))
    assert reach.drafted([1.0] * 5) == [1.0] * 5
    assert reach.drafted([]) == []


def test_no_position_is_likelier_to_be_drafted_than_one_before_it_or_than_to_count():
    survival = [0.4, 0.4, 0.3, 0.01, 0.0]
    for ends, goes_on in ((0.0, 0.5), (0.3, 0.0), (0.2, 0.9)):
        reach, _ = observed(Drafter((0.5,) * 6, ends, goes_on))
        shares = reach.drafted(survival)
        assert shares == sorted(shares, reverse=True)
        assert all(chance <= share <= 1.0 for chance, share in zip(survival, shares, strict=True))


def test_drafts_that_no_longer_end_early_are_drafted_whole_again_before_long():
    reach, _ = observed(Drafter((0.5,) * 4, ends=0.2, goes_on=0.0))
    survival = [0.5, 0.25, 0.125, 0.0625]
    before = sum(reach.drafted(survival))
    for _ in range(3000):
        reach.observe(4, 4, 4, 0)
    assert sum(reach.drafted(survival)) > 3.9 > 2.1 > before


def test_tokens_that_are_left_out_do_not_say_that_a_drafter_can_end_early():
    reach = Reach()
    for _ in range(50):
        reach.observe(6, 6, 4, 4)
    assert not reach.has_ended_early
    assert reach.drafted([0.5] * 6) == []
    reach.observe(6, 3, 3, 3)
    assert reach.has_ended_early
