"""Sessions go where there is least to do for them, and nobody gets many more than others; drafters are shared out."""

from __future__ import annotations

import random

import pytest

from deployments.policy.placement import Candidate, PeerLoad, best_verifier, drafters_of, least_loaded

VERIFIERS = ["v1", "v0", "v2"]


@pytest.mark.parametrize(
    ("drafters", "expected"),
    [
        ([], [[], [], []]),
        (["d0"], [["d0"], ["d0"], ["d0"]]),
        (["d1", "d0"], [["d0"], ["d1"], ["d0"]]),
        (["d0", "d2", "d1"], [["d0"], ["d1"], ["d2"]]),
        (["d0", "d1", "d2", "d3"], [["d0", "d3"], ["d1"], ["d2"]]),
    ],
)
def test_drafters_are_shared_out(drafters: list[str], expected: list[list[str]]) -> None:
    assert [drafters_of(verifier, VERIFIERS, drafters) for verifier in sorted(VERIFIERS)] == expected


def test_a_verifier_that_is_not_known_may_have_any() -> None:
    assert drafters_of("", VERIFIERS, ["d1", "d0"]) == ["d0", "d1"]


KEY = b"a beginning"


@pytest.mark.parametrize(
    ("v0", "v1", "expected"),
    [
        (Candidate(0, 512), Candidate(0), "v0"),  # held beats not held
        (Candidate(1, 512), Candidate(0), "v0"),  # and a session more
        (Candidate(2, 512), Candidate(0), "v0"),
        (Candidate(3, 5120), Candidate(0), "v1"),  # but not any number
        (Candidate(20, 5120), Candidate(16), "v0"),
        (Candidate(21, 5120), Candidate(16), "v1"),
        (Candidate(1, 64), Candidate(0), "v1"),  # a short beginning is not worth it
        (Candidate(1, 512), Candidate(0, 512), "v1"),
        (Candidate(0, 512, True), Candidate(2), "v1"),  # others wait for room there
        (Candidate(1, 512, True), Candidate(0, 0, True), "v0"),
    ],
)
def test_a_session_goes_where_least_has_to_be_done(v0: Candidate, v1: Candidate, expected: str) -> None:
    assert best_verifier({"v0": v0, "v1": v1}, KEY) == expected


def test_who_is_to_be_avoided_is_taken_where_there_is_nobody_else() -> None:
    both = {"v0": Candidate(0, 512), "v1": Candidate(2)}
    assert best_verifier(both, KEY, avoid=("v0",)) == "v1"
    assert best_verifier({"v0": Candidate(0)}, KEY, avoid=("v0",)) == "v0"
    assert best_verifier({}, KEY) is None


def test_of_equals_a_beginning_has_its_own_and_all_have_some() -> None:
    names = ["v0", "v1", "v2"]
    chosen = [best_verifier(dict.fromkeys(names, Candidate(4)), b"%d" % i) for i in range(90)]
    again = [best_verifier(dict.fromkeys(reversed(names), Candidate(4)), b"%d" % i) for i in range(90)]
    assert chosen == again
    assert all(15 < chosen.count(name) < 45 for name in names)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_held_loads_stay_near_each_other(seed: int) -> None:
    rng = random.Random(seed)
    counts = dict.fromkeys(["v0", "v1", "v2"], 0)
    for _ in range(300):
        if rng.random() < 0.4 and any(counts.values()):
            counts[rng.choice([name for name, count in counts.items() if count])] -= 1
        held = {name: rng.choice([0, 64, 640, 6400]) for name in counts}
        name = best_verifier({one: Candidate(counts[one], held[one]) for one in counts}, b"%d" % rng.randrange(4))
        assert name is not None
        fewest = min(counts.values())
        assert counts[name] <= max(fewest + 2, 1.25 * fewest)
        counts[name] += 1


def test_what_others_gave_a_peer_is_what_it_says_less_ones_own() -> None:
    load = PeerLoad()
    load.told(7, 1, num_own=5)
    assert (load.num_others, load.num_waiting) == (2, 1)
    load.told(3, 0, num_own=5)  # two of the own ones are under way
    assert (load.num_others, load.num_waiting) == (0, 0)


def test_the_least_loaded_is_the_first_by_name_among_equals() -> None:
    assert least_loaded({"b": 1, "a": 1, "c": 2}) == "a"
    assert least_loaded({}) is None
