"""`outrider eval` on the pocket pair over real engines and streams: equal quality is seen, a planted loss as well."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.main import main
from deployments.decoding import rejection
from evaluation.pocket.prompts import held_out
from tests.support.pocket import drafter_engine, verifier_engine
from tests.support.rest_pocket import serving_pocket

NUM_CASES = 24
MTP = 'mtp={"speculation": {"drafter": "mtp", "num_speculative_tokens": 8}}'


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Held-out contracts, as a user would write them down."""
    cases = [
        {"id": f"contract-{i}", "input": list(example.prompt_messages), "expected": example.reference}
        for i, example in enumerate(held_out("structured", NUM_CASES, seed=11))
    ]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    file = tmp_path / "contracts.yaml"
    scorers = "scorers: [exact_match, json_fields]\n"
    file.write_text(f"name: contracts\ngeneration: {{max_tokens: 160}}\n{scorers}cases: {{file: cases.jsonl}}\n")
    return file


async def evaluated(suite: Path, out: Path, *more: str) -> dict[str, Any]:
    """The results of a run with speculation off and with the MTP drafter."""
    async with serving_pocket(verifier_engine(), [drafter_engine()]) as (url, _):
        command = ["eval", "run", str(suite), "--url", url, "--out", str(out), "--variant", MTP, *more]
        assert await asyncio.to_thread(main, command) == 0
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


async def test_speculation_leaves_scores_and_tokens_as_they_are(suite: Path, tmp_path: Path) -> None:
    # 24 cases can tell a difference of an eighth, no smaller one.
    results = await evaluated(suite, tmp_path / "out", "--margin", "0.125")
    (against,) = results["against"]
    assert {found["metric"]: found["verdict"] for found in against["comparisons"]} == {
        "exact_match": "same",
        "json_fields": "same",
    }
    assert len(against["partings"]) == NUM_CASES
    assert {found["kind"] for found in against["partings"]} <= {"identical", "near-tie"}
    base = next(one for one in results["summaries"] if (one["variant"], one["metric"]) == ("base", "exact_match"))
    assert base["all"]["mean"]["mean"] > 0.8  # the pocket target can do this
    answers = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    drafted = [one for one in answers if one["variant"] == "mtp"]
    assert all(one["body"]["metrics"]["speculative_decoding"]["num_draft_tokens"] > 0 for one in drafted)


async def test_a_lossy_acceptance_is_caught(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def accept_everything(chosen: Any, drafts: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        outcomes, row = [], 0
        for draft in drafts:
            row += len(draft)
            outcomes.append((len(draft), int(chosen[row])))
            row += 1
        return outcomes

    monkeypatch.setattr(rejection, "accept", accept_everything)
    results = await evaluated(suite, tmp_path / "out", "--margin", "0.125")
    (against,) = results["against"]
    assert {found["metric"]: found["verdict"] for found in against["comparisons"]} == {
        "exact_match": "worse",
        "json_fields": "worse",
    }
    kinds = [found["kind"] for found in against["partings"]]
    assert kinds.count("bug") >= NUM_CASES / 3
