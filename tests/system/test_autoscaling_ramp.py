"""A load that climbs and falls on an autoscaled deployment of paced roles: replicas follow, and no text knows of it."""

from __future__ import annotations

from itertools import pairwise
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

NUM_TOKENS = 48
PARAMS = [SamplingParams(), SamplingParams(temperature=0.8, seed=2**40 + 3)]
SIZES = {"max_verifiers": 2, "max_drafters": 2, "max_sessions": 6, "peak": 9, "rest": 4}
OPTIONS = Options(**SIZES, climb_s=8.0, hold_s=10.0, rest_s=5.0, idle_s=5.0)


def has_followed(phase: str, running: dict[str, int]) -> bool:
    """Phases last until the replicas are there, so that a slow machine has its time and a fast one loses none."""
    verifiers, drafters = running.get("verifier"), running.get("drafter")
    return {"hold": verifiers == drafters == 2, "rest": verifiers == 1, "idle": verifiers == drafters == 1}[phase]


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [
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
        for prompt, params, output in safe_prompts(Reference(TARGET), PARAMS, 8, NUM_TOKENS)
    ]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, cases: list[Case]) -> dict[str, Any]:
    return run(OPTIONS, tmp_path_factory.mktemp("ramp"), cases, has_followed)


def test_the_library_has_its_own_text_for_each_request(cases: list[Case]) -> None:
    """A test of its own, since the one behind it needs its five minutes for itself on a busy machine."""
    assert len({case.text for case in cases}) == len(cases) == 8


def test_no_request_is_lost_and_each_has_the_librarys_text(record: dict[str, Any]) -> None:
    summary = record["summary"]
    assert summary["problems"] == []
    assert summary["num_lost"] == summary["num_changed"] == 0
    assert summary["num_requests"] > 50


def test_verifiers_follow_the_load_up_and_down(record: dict[str, Any]) -> None:
    _, running, _ = states(record["replicas"], "verifier")
    assert running[0] == 1
    assert max(running) == 2
    assert running[-1] == 1


def test_drafters_stay_within_their_bounds_and_end_at_their_floor(record: dict[str, Any]) -> None:
    """Whether they queue for long enough to become two depends on how the steps of two verifiers happen to fall."""
    _, running, _ = states(record["replicas"], "drafter")
    assert running[0] == 1
    assert max(running) <= 2
    assert running[-1] == 1


def test_verifiers_do_not_flap(record: dict[str, Any]) -> None:
    _, running, _ = states(record["replicas"], "verifier")
    assert [now for before, now in pairwise(running) if now != before] == [2, 1]


def test_the_verifier_that_went_drained_at_once(record: dict[str, Any]) -> None:
    """It would show if a drain waited for streams to end. Whether it had any just then hangs on where answers of half a
    second end; that streams move is tested with long ones, where a node is drained (test_cluster_deployment).
    """
    assert record["summary"]["drain_s"] < 5


def test_a_plot_is_made_of_it(record: dict[str, Any], tmp_path: Path) -> None:
    plot(record, tmp_path / "ramp.png")
    assert (tmp_path / "ramp.png").read_bytes().startswith(b"\x89PNG")
