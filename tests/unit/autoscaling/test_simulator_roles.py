"""A verifier and a drafter in virtual time do what the served ones do."""

from __future__ import annotations

import pytest

from autoscaling.simulator.events import EventQueue
from autoscaling.simulator.roles import Asked, Decided, StepReport, Verifier
from deployments.policy.hardware import pairs


@pytest.mark.parametrize(("num_left", "is_drafted_for"), [(3, False), (4, True)])
def test_nobody_drafts_for_a_session_that_has_ended(num_left: int, is_drafted_for: bool):
    events, decided, reports = EventQueue(), list[Decided](), list[StepReport]()
    verifier = Verifier(events, pairs()["h100x2-l4-31b"], jitter=0.0, seed=1)
    verifier.go_ahead, verifier.report = decided.append, reports.append
    verifier.verify(
        Asked(
            session=1, context_len=9, num_drafted=2, lookahead=4, num_left=num_left, survival=(0.9, 0.9),
            num_held=lambda lookahead: lookahead,
        )
    )  # fmt: skip
    events.run_until(lambda: bool(reports))
    assert [item.num_held for item in reports[0].items] == [2]
    assert bool(decided) == is_drafted_for


def stepped(*asked: Asked) -> StepReport:
    """What the first step makes of these, which are all there at once."""
    events, reports = EventQueue(), list[StepReport]()
    verifier = Verifier(events, pairs()["l40s-l4-12b"], jitter=0.0, seed=1)
    verifier.report = reports.append
    for one in asked:
        verifier.verify(one)
    events.run_until(lambda: bool(reports))
    return reports[0]


def test_drafts_beside_a_prompt_are_cut_as_those_of_the_served_verifier_are():
    """Up to 155 tokens are nearly free here: sixteen sessions fill that, and beside a prompt their drafts cost much."""
    drafted = [
        Asked(session=i, context_len=64, num_drafted=8, lookahead=8, num_left=90, survival=(0.05,) * 8)
        for i in range(16)
    ]
    prompt = Asked(session=99, context_len=128, num_drafted=0, lookahead=8, num_left=90, num_prompt_tokens=128)
    alone, beside = stepped(*drafted), stepped(*drafted, prompt)
    assert beside.shape.num_prompt_tokens == 128
    assert [len(report.items) for report in (alone, beside)] == [16, 17]
    assert sum(item.num_drafted for item in alone.items) == 16 * 8
    assert sum(item.num_drafted for item in beside.items) < 16 * 4
