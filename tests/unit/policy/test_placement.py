"""Which drafters serve which verifier's sessions: each its own where there are enough."""

from __future__ import annotations

import pytest

from deployments.policy.placement import drafters_of

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
