"""`outrider bench engine` on the real pair: loaded engines beside transformers', the same tokens from all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.cli.main import main

pytestmark = pytest.mark.system


def test_a_tiny_run_measures_and_every_system_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.json"
    what = "--pairs pocket --systems outrider,hf,hf-assisted,hf-continuous --classes structured --streams 1,2"
    size = "--prompt-tokens 64 --lookaheads 3 --repeats 1 --max-tokens 12 --threads 1"
    assert main(["bench", "engine", *what.split(), *size.split(), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "| structured | 2 | 64 |" in printed
    assert "vLLM was not measured" in printed
    # transformers 5.24 caches all layers with one head dimension; the pair has two.
    assert "hf-continuous does not serve this pair" in printed
    found = [row for row in json.loads(out.read_text())["rows"] if row["phase"] == "measured"]
    assert {(row["system"], row["streams"]) for row in found} == {
        ("outrider", 1),
        ("outrider", 2),
        ("hf", 1),
        ("hf", 2),
        ("hf-assisted", 1),
    }
    for row in found:
        assert row["num_same_text"] == row["num_compared_text"] > 0
        assert row["output_tokens_per_s"] > 0
        assert row["step_ms_p50"] > 0
    lengths = {row["system"]: row["acceptance_length"] for row in found if row["lookahead"]}
    assert 2 < lengths["outrider"] <= 4
    assert 2 < lengths["hf-assisted"] <= 4
