from __future__ import annotations

import argparse
import builtins
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import bench
from evaluation.load.sweep import Sweep, SweepResults
from evaluation.load.sweep_records import Load, Place, Slo, summarise
from tests.support.fake_endpoint import fake_endpoint

SMALL = ("--lookaheads", "0,2,auto", "--concurrency", "2", "--classes", "code", "--seconds", "0.2", "--warm-up", "0.05")


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["sweep", *arguments])


def sweep(*arguments: str) -> int:
    args = parse(*arguments)
    return int(args.run(args))


def test_a_running_endpoint_is_swept_into_json_picture_and_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["outrider", "bench", "sweep", "--api-key", "secret-key"])
    with fake_endpoint(key="secret-key") as fake:
        arguments = (
            "--url",
            f"{fake.url}/",
            "--api-key",
            "secret-key",
            "--out",
            str(tmp_path / "new"),
            "--repeats",
            "2",
        )
        assert sweep(*arguments, *SMALL) == 0
    printed = capsys.readouterr()
    assert "| code | 2 streams | auto |" in printed.out
    assert "| class | load | best fixed |" in printed.out
    assert "code x2, lookahead 2:" in printed.err
    text = (tmp_path / "new" / "results.json").read_text()
    document = json.loads(text)
    assert [row["lookahead"] for row in document["rows"]] == [0, 2, "auto"]
    wanted = {"lookahead", "concurrency", "request_class", "output_tokens_per_s", "ttft_ms_p50", "ttft_ms_p99"}
    wanted |= {"tpot_ms_p50", "tpot_ms_p99", "itl_ms_p99", "acceptance_length", "goodput"}
    assert wanted <= set(document["rows"][0])
    assert document["rows"][0]["acceptance_length"] is None
    assert document["rows"][1]["acceptance_length"] == 2.5
    assert document["comparison"][0]["num_pairs"] == 2
    assert document["one_for_all"] is None  # there is one load alone
    assert "secret-key" not in text + printed.out + printed.err
    assert (tmp_path / "new" / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_API_KEY", "secret")
    with fake_endpoint(key="secret") as fake:
        assert sweep("--url", fake.url, "--repeats", "0", *SMALL) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--concurrency", "1", "--rate", "2"), "give one of them"),
        (("--config", "a.yaml"), "--config is for an endpoint that is started here"),
        (("--pair", "l40s-l4-12b"), "--pair is for an endpoint that is started here"),
        (("--virtual",), "--virtual needs the cost tables of a --pair"),
        (("--quick", "--classes", "code,prose,mixed"), "at most 20 cells, these are 30"),
        (("--quick", "--budget", "4000"), "--quick takes at most --budget 540"),
    ],
)
def test_what_does_not_go_together_is_said(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("--url", "http://127.0.0.1:1", *arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lookaheads", "2,some"), "a lookahead is a number or auto, not 'some'"),
        (("--classes", "poems"), "there is no 'poems': use structured, code, prose, mixed"),
        (("--rate", "0"), "must be a number above 0, not 0"),
        (("--seconds", "nan"), "must be a number above 0, not nan"),
        (("--concurrency", "4,0"), "must be at least 1, not 0"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(*arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--virtual", "--pair", "l40s-l4-12b", "--seconds", "3"), "its cells last by tokens"),
        (("--pair", "l40s-l4-12b", "--config", "a.yaml"), "leave it or --config out"),
    ],
)
def test_what_a_pair_does_not_go_with_is_said(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*arguments) == 1
    assert message in capsys.readouterr().err


def test_a_pair_is_swept_in_virtual_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--virtual", "--pair", "h100x2-l4-31b", "--out", str(tmp_path), "--lookaheads", "0,4,auto")
    assert sweep(*arguments, "--concurrency", "1,4", "--classes", "code") == 0
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["timing_s"] is None
    assert "virtual time on cost tables" in document["environment"]["hardware"]
    assert len(document["rows"]) == 6
    assert "virtual time on cost tables" in capsys.readouterr().out
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_an_endpoint_that_fails_on_the_way_leaves_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = summarise(Place("code", Load(2)), 2, [], (0.0, 1.0), Slo())
    broken = SweepResults(rows=[row], why_short="it answered 500", has_failed=True)
    monkeypatch.setattr(Sweep, "run", lambda self: broken)
    with fake_endpoint() as fake:
        assert sweep("--url", fake.url, "--out", str(tmp_path), "--no-plot", *SMALL) == 1
    printed = capsys.readouterr()
    assert "answered 500" in printed.err
    assert "| code | 2 streams | 2 |" in printed.out
    document = json.loads((tmp_path / "results.json").read_text())
    assert len(document["rows"]) == 1
    assert "answered 500" in document["why_short"]


def test_an_endpoint_in_trouble_is_a_message_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_endpoint(key="other") as fake:
        assert sweep("--url", fake.url, "--api-key", "wrong", *SMALL) == 1
    assert "outrider bench sweep: " in capsys.readouterr().err
    assert sweep("--url", "http://127.0.0.1:1", *SMALL) == 1
    assert "names no model" in capsys.readouterr().err
    assert sweep("--url", "no address", *SMALL) == 1
    assert "'no address' is not an http address" in capsys.readouterr().err


def test_a_missing_matplotlib_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def without_matplotlib(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real_import(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with fake_endpoint() as fake:
        assert sweep("--url", fake.url, "--out", str(tmp_path), *SMALL) == 1
        assert "pip install 'outrider[eval]'" in capsys.readouterr().err
        assert not fake.requests
        assert sweep("--url", fake.url, "--out", str(tmp_path), "--no-plot", "--repeats", "0", *SMALL) == 0


def test_ctrl_c_keeps_the_rows_so_far(tmp_path: Path) -> None:
    with fake_endpoint() as fake:
        command = [sys.executable, "-m", "deployments.cli.main", "bench", "sweep", "--url", fake.url]
        command += ["--out", str(tmp_path), "--no-plot", "--classes", "code", "--concurrency", "1", "--seconds", "0.5"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        results = tmp_path / "results.json"
        deadline_s = time.monotonic() + 240
        while not results.exists():
            assert time.monotonic() < deadline_s
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    document = json.loads(results.read_text())
    assert document["why_short"] == "interrupted"
    assert 1 <= len(document["rows"]) < 10
    assert "Not everything was measured: interrupted." in out
