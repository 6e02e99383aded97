"""`outrider bench sweep` with a server of its own, the pocket pair on it, within its time."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest


@pytest.mark.system
def test_a_sweep_starts_measures_compares_and_stops(tmp_path: Path) -> None:
    outrider = Path(sysconfig.get_path("scripts")) / "outrider"
    command = [str(outrider), "bench", "sweep", "--quick", "--out", str(tmp_path), "--classes", "structured,mixed"]
    command += ["--lookaheads", "0,4,auto", "--concurrency", "1,4", "--seconds", "2", "--warm-up", "0.5"]
    begun_s = time.monotonic()
    done = subprocess.run(
        [*command, "--repeats", "2"], capture_output=True, text=True, timeout=600, env={**os.environ}, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert time.monotonic() - begun_s < 600
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["why_short"] == ""
    rows = document["rows"]
    assert len(rows) == 3 * 2 * 2
    for row in rows:
        assert row["output_tokens_per_s"] > 0, row
        assert 0 < row["ttft_ms_p50"] <= row["ttft_ms_p99"], row
        assert row["num_failed"] == 0, row
        assert (row["acceptance_length"] is None) == (row["lookahead"] == 0) or row["lookahead"] == "auto", row
    drafted = [row for row in rows if row["lookahead"] == 4 and row["request_class"] == "structured"]
    assert all(row["acceptance_length"] > 3 for row in drafted), drafted
    assert {one["num_pairs"] for one in document["comparison"]} == {2}
    assert document["one_for_all"]["num_places"] == 4
    assert "best: auto over it is " in done.stdout
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
