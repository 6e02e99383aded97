"""A session of phases: what is counted, and the picture of it."""

from __future__ import annotations

from pathlib import Path

from autoscaling.simulator.phases import Phased, Round
from deployments.policy.hardware import pairs
from evaluation.load.phases import PHASE_TOKENS, TAIL_TOKENS, Followed, draw, in_phase, rounds_until, table

BEST = {"prose": 4, "structured": 6}


def rounds(*lookaheads: int) -> list[Round]:
    return [Round(10.0 * index, index, lookahead) for index, lookahead in enumerate(lookaheads)]


def test_rounds_are_counted_until_one_is_within_one_of_the_best() -> None:
    assert rounds_until(rounds(8, 8, 5, 8), 4) == 3
    assert rounds_until(rounds(3), 4) == 1
    assert rounds_until(rounds(0, 2, 6), 4) is None
    assert rounds_until([], 4) is None


def test_a_round_belongs_to_the_phase_that_it_ended_in_and_the_tail_to_none() -> None:
    all_of_it = [Round(0.0, position, 1) for position in range(3 * PHASE_TOKENS)]
    found = [[one.position for one in in_phase(all_of_it, index)] for index in range(3)]
    assert [(part[0], part[-1]) for part in found] == [
        (0, PHASE_TOKENS - 1),
        (PHASE_TOKENS, 2 * PHASE_TOKENS - 1),
        (2 * PHASE_TOKENS, 3 * PHASE_TOKENS - TAIL_TOKENS - 1),
    ]


def test_the_table_says_never_rather_than_leaving_a_text_out() -> None:
    found = [Followed([], (1, 2, 3)), Followed([], (1, 9, None))]
    lines = table(found, "prose", BEST).splitlines()
    assert lines[2] == "| 1: prose | 4 | 1 | 1 | 2 |"
    assert lines[3] == "| 2: structured | 6 | 5.5 | 9 | 1 |"
    assert lines[4] == "| 3: prose | 4 | 3 | never | 1 |"


def test_a_served_router_goes_on_and_its_session_is_drawn(tmp_path: Path) -> None:
    served = Phased(pairs()["h100x2-l4-31b"], ("prose", "structured"))
    kinds = [(PHASE_TOKENS, kind) for kind in ("prose", "structured", "prose")]
    first, again = served.run(kinds, "prose", 1), served.run(kinds, "prose", 1)
    for one in (first, again):
        assert 0 < one[0].time_ms < one[-1].time_ms
        assert [r.position for r in one] == sorted(r.position for r in one)
        assert one[-1].position < 3 * PHASE_TOKENS
    draw([Followed(first, (1, 1, 1)), Followed(again, (1, 1, 1))], "prose", BEST, "a title", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
