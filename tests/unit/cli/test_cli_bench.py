from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from deployments.cli import bench
from evaluation.load import bench as bench_run
from evaluation.load import endpoint
from evaluation.load.bench import Plan
from tests.support.fake_endpoint import fake_endpoint

SMALL = Plan(num_repeats=2, max_tokens=32, num_prompts={1: 1, 8: 8}, tasks=("structured", "prose"))


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_run, "QUICK", SMALL)
    monkeypatch.setattr(endpoint, "SETTLE_S", 0.0)


def test_a_running_endpoint_is_measured_and_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    with fake_endpoint() as fake:
        status = bench.run(
            parse("--url", f"{fake.url}/", "--no-hf", "--quick", "--max-tokens", "16", "--out", str(out))
        )
    assert status == 0
    printed = capsys.readouterr()
    assert "| structured | 8 |" in printed.out
    assert "| prose | 1 |" in printed.out
    assert "[2/2] prose x8 outrider, speculation off:" in printed.err
    assert len(json.loads(out.read_text())["cells"]) == 2 * 2 * 2
    assert all(body["max_tokens"] == 16 for _, body in fake.requests[18:])


def test_an_endpoint_in_trouble_is_a_message_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_endpoint(status=500) as fake:
        assert bench.run(parse("--url", fake.url, "--no-hf", "--quick")) == 1
    assert "outrider bench: " in capsys.readouterr().err


def test_counts_must_be_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--repeats", "0")
    assert "must be at least 1, not 0" in capsys.readouterr().err
