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
