from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.policy.variants import assign

names = st.sampled_from(["a", "b", "c", "d"])
splits = st.dictionaries(names, st.floats(0.0, 100.0), max_size=4)


@given(splits, st.binary())
def test_a_key_falls_on_one_with_weight_and_always_on_the_same(weights: dict[str, float], key: bytes) -> None:
    name = assign(weights, key)
    assert name == assign(dict(reversed(weights.items())), key)
    if name is None:
        assert sum(weights.values()) == 0.0
    else:
        assert weights[name] > 0.0


def test_shares_are_as_the_weights() -> None:
    weights = {"control": 9.0, "far": 1.0, "off": 0.0}
    found = [assign(weights, b"%d" % index) for index in range(20_000)]
    assert found.count("far") / len(found) == pytest.approx(0.1, abs=0.01)
    assert "off" not in found


def test_a_changed_weight_moves_no_more_than_it_must() -> None:
    before = [assign({"a": 9.0, "b": 1.0}, b"%d" % index) for index in range(5_000)]
    after = [assign({"a": 8.0, "b": 2.0}, b"%d" % index) for index in range(5_000)]
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    assert moved / 5_000 == pytest.approx(0.1, abs=0.02)
    assert all(other == "b" for one, other in zip(before, after, strict=True) if one == "b")
