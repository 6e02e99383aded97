"""Intervals, verdicts, and where two answers part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from evaluation.quality.aggregates import aggregate, bootstrap, slices
from evaluation.quality.paired import compare, part
from evaluation.quality.suite import Case


def test_an_interval_is_the_same_each_time_and_covers_what_it_should() -> None:
    assert bootstrap([0.0, 1.0, 1.0]) == bootstrap([0.0, 1.0, 1.0])
    random = np.random.default_rng(1)
    intervals = [bootstrap(list(random.random(80))) for _ in range(200)]
    num_covering = sum(one.low <= 0.5 <= one.high for one in intervals)
    assert 180 <= num_covering <= 198  # 95 % of 200, four standard deviations


def test_an_aggregate_shows_the_tail() -> None:
    one = aggregate([1.0] * 8 + [0.49, 0.0])
    assert (one.num_cases, one.fail_rate, one.p10) == (10, 0.2, 0.0)
    assert one.mean.mean == pytest.approx(0.849)
    assert aggregate([0.5]).fail_rate == 0


def test_slices_are_of_keys_with_several_values() -> None:
    cases = [
        Case(id=str(i), input="x", metadata={"kind": "ab"[i % 2], "one": "same", "label": str(i)}) for i in range(30)
    ]
    found = slices(cases, {case.id: float(case.metadata["kind"] == "a") for case in cases})
    assert {name: one.mean.mean for name, one in found.items()} == {"kind=a": 1.0, "kind=b": 0.0}
    assert found["kind=a"].num_cases == 15


def scores(values: Sequence[float]) -> dict[str, float]:
    return {str(i): value for i, value in enumerate(values)}


@pytest.mark.parametrize(
    ("base", "other", "verdict"),
    [
        ([1.0] * 200, [1.0] * 200, "same"),
        ([1.0] * 149, [1.0] * 149, "too few cases to tell"),  # what befalls 2 % of cases need not show in 149
        ([1.0] * 200, [0.0] * 1 + [1.0] * 199, "same"),
        ([1.0] * 200, [0.0] * 5 + [1.0] * 195, "too few cases to tell"),
        ([1.0] * 200, [0.0] * 20 + [1.0] * 180, "worse"),
        ([0.0] * 20 + [1.0] * 180, [1.0] * 200, "better"),
        ([1.0] * 5, [0.0] * 5, "too few cases to tell"),  # five of five: a coin does that one time in sixteen
        ([1.0] * 6, [0.0] * 6, "worse"),
        ([0.0, 1.0] * 100, [1.0, 0.0] * 100, "too few cases to tell"),  # all differ, the mean does not
        ([0.5] * 200, [0.51] * 200, "same"),  # sure, and within the margin
        ([0.5] * 200, [0.53] * 200, "better"),
        ([], [], "too few cases to tell"),
    ],
)
def test_a_verdict_says_only_what_the_cases_show(base: list[float], other: list[float], verdict: str) -> None:
    assert compare("m", scores(base), scores(other)).verdict == verdict


def test_a_wider_margin_needs_fewer_cases() -> None:
    assert compare("m", scores([1.0] * 30), scores([1.0] * 30), margin=0.1).verdict == "same"


def test_only_shared_cases_are_compared() -> None:
    found = compare("m", {"a": 1.0, "b": 0.0}, {"a": 0.0, "c": 1.0})
    assert (found.num_cases, found.difference.mean) == (1, -1.0)


def chat_body(tokens: list[str], leads: list[float] | None, ids: list[int] | None = None) -> dict[str, Any]:
    entries = [
        {"token": token, "logprob": -0.1, "top_logprobs": [{"logprob": -0.1}, {"logprob": -0.1 - lead}]}
        for token, lead in zip(tokens, leads or [], strict=False)
    ]
    choice: dict[str, Any] = {"message": {"content": "".join(tokens)}}
    if leads is not None:
        choice["logprobs"] = {"content": entries}
    if ids is not None:
        choice["token_ids"] = ids
    return {"choices": [choice]}


def completion_body(tokens: list[str], tops: list[dict[str, float]]) -> dict[str, Any]:
    return {"choices": [{"text": "".join(tokens), "logprobs": {"tokens": tokens, "top_logprobs": tops}}]}


def found_of(base: dict[str, Any], other: dict[str, Any], temperature: float = 0.0) -> tuple[str, int | None]:
    found = part("c", base, other, temperature, 1e-4)
    return found.kind, found.position


def test_where_answers_part_and_why() -> None:
    base = chat_body(["a", "b", "c"], [1.0, 0.00005, 2.0])
    assert found_of(base, base) == ("identical", None)
    assert found_of(base, chat_body(["a", "x", "c"], [1.0, 1.0, 2.0])) == ("near-tie", 1)
    assert found_of(base, chat_body(["a", "b", "x"], [1.0, 1.0, 2.0])) == ("bug", 2)
    assert found_of(base, chat_body(["a", "b"], [1.0, 1.0])) == ("bug", 2)  # ended too soon
    assert found_of(base, chat_body(["a", "b", "x"], [1.0, 1.0, 2.0]), temperature=1.0) == ("sampled", 2)
    assert found_of(base, chat_body(["a", "b", "x"], None)) == ("unexplained", 2)  # by characters
    assert found_of(chat_body(["ab"], None), chat_body(["ab"], None)) == ("identical", None)


def test_ids_tell_tokens_apart_that_look_alike() -> None:
    base = chat_body(["a", "b"], [1.0, 1.0], [5, 6])
    assert found_of(base, chat_body(["a", "b"], [1.0, 1.0], [5, 7])) == ("bug", 1)
    assert found_of(chat_body(["a"], None, [5]), chat_body(["a"], None, [6])) == ("unexplained", 0)


def test_completions_tell_their_leads_otherwise() -> None:
    base = completion_body(["a", "b"], [{"a": -0.1, "x": -3.0}, {"b": -0.5, "c": -0.50002}])
    assert found_of(base, completion_body(["a", "c"], [{"a": -0.1, "x": -3.0}, {"c": -0.5, "b": -0.5}])) == (
        "near-tie",
        1,
    )
    assert found_of(base, completion_body(["x", "b"], [{"a": -0.1}, {"b": -0.5}])) == ("bug", 0)
