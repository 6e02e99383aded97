"""lm-evaluation-harness gives the extraction cases the exact match that our own suite gives them.

The harness and what it brings (pandas, pyarrow, scikit-learn) live in an environment of their own, build/lm_eval, which
is made if it is not there.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.cli.main import main
from evaluation.pocket.records import render
from evaluation.quality.loading import load_suite
from tests.support.pocket import drafter_engine, verifier_engine
from tests.support.rest_pocket import serving_pocket

pytestmark = pytest.mark.system

HOME = Path(__file__).resolve().parents[2] / "build" / "lm_eval"
REQUIREMENT = "lm_eval[api]==0.4.13"
EVERY = 4
"""Of the suite's cases one in so many, so that each manner of wording has its share."""
INSTALL_LIMIT_S, RUN_LIMIT_S = 900, 600


@pytest.fixture(scope="module")
def lm_eval() -> Path:
    """The harness's command."""
    command = HOME / "bin" / "lm_eval"
    if not command.exists():
        # Installing may take longer than pytest lets a test hang; it has a deadline of its own.
        faulthandler.cancel_dump_traceback_later()
        subprocess.run([sys.executable, "-m", "venv", "--clear", HOME], check=True, timeout=INSTALL_LIMIT_S)
        pip = [HOME / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", REQUIREMENT]
        subprocess.run(pip, check=True, timeout=INSTALL_LIMIT_S)
    return command


@pytest.fixture
def cases(tmp_path: Path) -> list[dict[str, str]]:
    """Cases of the built-in extraction suite, as rendered prompts and canonical answers, in a file for either side."""
    found = []
    for case in load_suite("extraction").cases[::EVERY]:
        messages = [{"role": "user", "content": case.input}] if isinstance(case.input, str) else case.input
        turns = tuple(one if isinstance(one, dict) else {"role": one.role, "content": one.content} for one in messages)
        found.append({"id": case.id, "prompt": render(turns), "expected": json.dumps(case.expected)})  # type: ignore[arg-type]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found))
    return found


def our_suite(folder: Path, cases: list[dict[str, str]]) -> Path:
    file = folder / "suite.yaml"
    suite = {
        "name": "extraction",
        "api": "completions",
        # The prompts have their special tokens already.
        "generation": {"max_tokens": 160, "stop": ["<turn|>"], "extra": {"add_special_tokens": False}},
        "scorers": ["exact_match"],
        "cases": [{"id": one["id"], "input": one["prompt"], "expected": one["expected"]} for one in cases],
    }
    file.write_text(yaml.safe_dump(suite, allow_unicode=True))
    return file


def their_task(folder: Path) -> None:
    task = {
        "task": "outrider_extraction",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "cases.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "expected",
        "generation_kwargs": {"until": ["<turn|>"], "do_sample": False, "temperature": 0, "max_gen_toks": 160},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))


async def run_harness(command: Path, url: str, folder: Path) -> list[dict[str, Any]]:
    """The harness's record of every case."""
    arguments = f"model=pocket,base_url={url}/v1/completions,tokenizer_backend=remote,tokenized_requests=True"
    process = await asyncio.create_subprocess_exec(
        *(command, "run", "--model", "local-completions", "--model_args", f"{arguments},num_concurrent=4"),
        *("--tasks", "outrider_extraction", "--include_path", folder),
        *("--output_path", folder / "theirs", "--log_samples"),
        # Everything it needs is here: it is not to look for models, tokenizers or data elsewhere.
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(folder / "hf"),
            "PYTHONPATH": "",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
    )
    async with asyncio.timeout(RUN_LIMIT_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-3000:]
    (file,) = (folder / "theirs").rglob("samples_*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_the_harness_gives_the_same_exact_match(
    lm_eval: Path, cases: list[dict[str, str]], tmp_path: Path
) -> None:
    suite = our_suite(tmp_path, cases)
    their_task(tmp_path)
    async with serving_pocket(verifier_engine(), [drafter_engine()]) as (url, _):
        theirs = await run_harness(lm_eval, url, tmp_path)
        command = ["eval", "run", str(suite), "--url", url, "--out", str(tmp_path / "ours")]
        assert await asyncio.to_thread(main, command) == 0
    scores = json.loads((tmp_path / "ours" / "results.json").read_text())["scores"]
    ours = {one["case"]: one["value"] for one in scores}
    assert len(theirs) == len(ours) == len(cases) > 50
    assert {cases[one["doc_id"]]["id"]: one["exact_match"] for one in theirs} == ours
    # Neither is trivially right or wrong.
    assert 0.5 < sum(ours.values()) / len(cases) < 1
