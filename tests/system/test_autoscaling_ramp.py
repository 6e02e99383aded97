"""A load that climbs and falls on an autoscaled deployment of paced roles: replicas follow, and no text knows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.messages import SamplingParams
from evaluation.load.ramp import Options, run
from evaluation.load.ramp_load import Case
from evaluation.load.ramp_plot import plot, states
from tests.support.equality import Reference
from tests.support.pocket import TARGET, safe_prompts, tokenizer

pytestmark = pytest.mark.system

NUM_TOKENS = 64
PARAMS = [SamplingParams(), SamplingParams(temperature=0.8, seed=2**40 + 3)]
OPTIONS = Options(max_verifiers=2, max_drafters=2, max_sessions=6, peak=9, climb_s=12.0, hold_s=18.0, idle_s=30.0)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    cases = [
        Case(
            fields={
                "model": "pocket",
                "prompt": list(prompt),
                "max_tokens": NUM_TOKENS,
                "temperature": params.temperature,
                "seed": params.seed,
            },
            text=tokenizer().decode(output, skip_special_tokens=True),
        )
        for prompt, params, output in safe_prompts(Reference(TARGET), PARAMS, 12, NUM_TOKENS)
    ]
    return run(OPTIONS, tmp_path_factory.mktemp("ramp"), cases)


def test_no_request_is_lost_and_each_has_the_librarys_text(record: dict[str, Any]) -> None:
    summary = record["summary"]
    assert summary["problems"] == []
    assert summary["num_lost"] == summary["num_changed"] == 0
    assert summary["num_requests"] > 50


@pytest.mark.parametrize("role", ["verifier", "drafter"])
def test_replicas_follow_the_load_up_and_down(record: dict[str, Any], role: str) -> None:
    _, running, _ = states(record["replicas"], role)
    assert running[0] == 1
    assert max(running) == 2
    assert running[-1] == 1


def test_no_role_changes_its_mind(record: dict[str, Any]) -> None:
    for role in ("verifier", "drafter"):
        _, running, _ = states(record["replicas"], role)
        turns = [num for num, before in zip(running[1:], running, strict=False) if num != before]
        assert turns == [2, 1]


def test_a_plot_is_made_of_it(record: dict[str, Any], tmp_path: Path) -> None:
    plot(record, tmp_path / "ramp.png")
    assert (tmp_path / "ramp.png").read_bytes().startswith(b"\x89PNG")
