"""`outrider eval` from a suite's file to its report, against scripted endpoints."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.evaluation_run import own_command
from deployments.cli.main import main
from tests.support.scripted_endpoint import Reply, chat, prompt_of, refusal, scripted_endpoint

CASES = "".join(
    f"  - {{id: c{i:02}, input: 'say {i}', expected: 'it is {i}', metadata: {{kind: {'ab'[i % 2]}}}}}\n"
    for i in range(20)
)
SUITE = f"name: numbers\ndescription: Numbers.\nscorers: [exact_match, {{regex: {{pattern: is}}}}]\ncases:\n{CASES}"
LIMIT_S = 120.0
HOSTILE = "<script>alert('x')</script> | a `b`\n# head"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    file = tmp_path / "suite.yaml"
    file.write_text(SUITE)
    return file


def right(path: str, body: dict[str, Any]) -> Reply:
    return chat(f"it is {prompt_of(body).split()[-1]}")


def lossy_when_drafted(path: str, body: dict[str, Any]) -> Reply:
    """As an endpoint would be whose speculation changes the text of every second case."""
    number = int(prompt_of(body).split()[-1])
    is_wrong = number % 2 and body.get("speculation") != {"num_speculative_tokens": 0}
    text = f"it was {number}" if is_wrong else f"it is {number}"
    entries = [
        {"token": word, "logprob": -0.1, "top_logprobs": [{"logprob": -0.1}, {"logprob": -3.0}]}
        for word in text.split()
    ]
    return chat(text, logprobs={"content": entries})


def evaluate(suite: Path, url: str, out: Path, *more: str) -> int:
    return main(["eval", "run", str(suite), "--url", url, "--out", str(out), *more])


def results_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_from_a_suite_to_its_report(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mostly(path: str, body: dict[str, Any]) -> Reply:
        return chat(HOSTILE) if prompt_of(body) == "say 3" else right(path, body)

    with scripted_endpoint(mostly) as endpoint:
        assert evaluate(suite, endpoint.url, tmp_path / "out", "--api-key", "sesame") == 0
    printed = capsys.readouterr().out
    assert "| exact_match | base | 0.950 (0.850 to 1.000) | 1.000 | 5.0 % | 20 |" in printed
    assert "| exact_match | base | kind=b | 0.900" in printed
    assert "Against base" not in printed
    assert (tmp_path / "out" / "report.md").read_text().strip() == printed.strip()
    worst = [line for line in printed.splitlines() if line.startswith("| c03 | base | 0.00 | say 3 | it is 3")]
    # What a model wrote neither leaves its cell nor becomes markup.
    assert len(worst) == 2  # one per metric
    assert r"\<script\>alert('x')\</script\> \| a \`b\` ↵ \# head" in worst[0]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert page.count("<svg") == 1
    # Self-contained: no address is fetched (namespaces of the drawing are names).
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", page.replace("xlink:href", "xlink"))
    assert not any("sesame" in file.read_text() for file in (tmp_path / "out").iterdir())


def test_a_planted_regression_is_caught(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variant = 'mtp={"speculation": {"drafter": "mtp"}}'
    with scripted_endpoint(lossy_when_drafted) as endpoint:
        assert evaluate(suite, endpoint.url, tmp_path / "out", "--variant", variant) == 0
    (against,) = results_of(tmp_path / "out")["against"]
    by_metric = {found["metric"]: found for found in against["comparisons"]}
    assert by_metric["exact_match"]["verdict"] == "worse"
    assert by_metric["exact_match"]["num_differing"] == 10
    assert by_metric["exact_match"]["difference"]["mean"] == -0.5
    kinds = [found["kind"] for found in against["partings"]]
    assert (kinds.count("identical"), kinds.count("bug")) == (10, 10)
    assert {found["position"] for found in against["partings"]} == {None, 1}
    printed = capsys.readouterr().out
    assert (
        "- mtp against base: worse: exact_match, regex; 10 of 20 answers identical, 10 part where the base" in printed
    )


def test_variants_from_a_file_and_a_base_elsewhere(suite: Path, tmp_path: Path) -> None:
    file = tmp_path / "variants.yaml"
    with scripted_endpoint(right) as ours, scripted_endpoint(right) as peer:
        file.write_text(
            f"base: {{url: '{peer.url}', model: theirs}}\nk4: {{speculation: {{num_speculative_tokens: 4}}}}\n"
        )
        assert evaluate(suite, ours.url, tmp_path / "out", "--variants", str(file), "--margin", "0.2") == 0
    assert not any("speculation" in body for _, body, _ in peer.requests)
    verdicts = [found["verdict"] for found in results_of(tmp_path / "out")["against"][0]["comparisons"]]
    assert verdicts == ["same", "same"]


def test_two_runs_are_compared(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_endpoint(right) as endpoint:
        evaluate(suite, endpoint.url, tmp_path / "a")
        evaluate(suite, endpoint.url, tmp_path / "short", "--limit", "3")
    with scripted_endpoint(lossy_when_drafted) as endpoint:
        evaluate(suite, endpoint.url, tmp_path / "b")
    capsys.readouterr()
    assert main(["eval", "compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert re.search(r"\| base \| exact_match \| -0.500 \(.*\) \| 10 \| 20 \| worse \|", capsys.readouterr().out)
    assert main(["eval", "compare", str(tmp_path / "a"), str(tmp_path / "short")]) == 1
    assert "asked different things" in capsys.readouterr().err
    assert main(["eval", "compare", str(tmp_path / "a"), str(tmp_path / "none")]) == 1


def test_families_are_added_and_memorisation_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "notes.yaml"
    notes = [
        f"Summarise the note below. The {what} stopped on Monday. Anna found a full disk. She freed some space."
        for what in ("mail gateway", "search index", "build server")
    ]
    cases = [{"id": f"n{i}", "input": note, "expected": f"answer {i}"} for i, note in enumerate(notes)]
    file.write_text(json.dumps({"name": "notes", "scorers": ["exact_match"], "cases": cases}))

    def by_heart(path: str, body: dict[str, Any]) -> Reply:
        asked = prompt_of(body)
        return chat(f"answer {notes.index(asked)}" if asked in notes else "what?")

    with scripted_endpoint(by_heart) as endpoint:
        assert evaluate(file, endpoint.url, tmp_path / "out", "--families", "paraphrase", "--seed", "3") == 0
        printed = capsys.readouterr().out
        # The families' cases do not water down the suite's own figures.
        assert "| exact_match | base | 1.000 (1.000 to 1.000) | 1.000 | 0.0 % | 3 |" in printed
        (row,) = [line for line in printed.splitlines() if line.startswith("| exact_match | base | paraphrase |")]
        assert row.startswith("| exact_match | base | paraphrase | 0.0 % | 3 | 0.0 % | 3 | 0 | n0~paraphrase, ")
        num_asked = len(endpoint.requests)
        assert num_asked == 6
        assert evaluate(file, endpoint.url, tmp_path / "out", "--families", "paraphrase", "--seed", "3") == 0
        assert len(endpoint.requests) == num_asked  # the same variants by the same seed
        capsys.readouterr()
        assert evaluate(file, endpoint.url, tmp_path / "other", "--families", "riddle") == 1
    assert "no family 'riddle'; there are paraphrase" in capsys.readouterr().err


def test_kept_answers_are_scored_anew(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_endpoint(right) as endpoint:
        evaluate(suite, endpoint.url, tmp_path / "out")
        suite.write_text(SUITE.replace("expected: 'it is 7'", "expected: 'seven'"))
        num_asked = len(endpoint.requests)
        evaluate(suite, endpoint.url, tmp_path / "out")
        assert len(endpoint.requests) == num_asked
    assert "| exact_match | base | 0.950" in capsys.readouterr().out
    before = results_of(tmp_path / "out")
    assert main(["eval", "report", str(tmp_path / "out")]) == 0
    assert "| exact_match | base | 0.950" in capsys.readouterr().out
    after = results_of(tmp_path / "out")
    assert after["environment"].pop("scored by")
    assert after == before


def test_several_runs_share_a_page(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(SUITE.replace("name: ", "name: more-", 1))
    with scripted_endpoint(right) as endpoint:
        folders = [tmp_path / "first", tmp_path / "second"]
        for file, folder in zip((suite, other), folders, strict=True):
            assert evaluate(file, endpoint.url, folder) == 0
    names = [results_of(folder)["plan"]["suite"] for folder in folders]
    capsys.readouterr()
    both = [str(folder) for folder in folders]
    assert main(["eval", "report", *both, "--out", str(tmp_path / "page")]) == 0
    printed = capsys.readouterr().out
    assert [f"## {name}: Quality" in printed for name in names] == [True, True]
    assert printed.count("| exact_match | base | 1.000") >= 2
    assert (tmp_path / "page" / "report.html").read_text().count("<svg") == 2
    assert main(["eval", "report", *both]) == 1
    assert "--out" in capsys.readouterr().err
    assert main(["eval", "report", *both, str(tmp_path), "--out", str(tmp_path / "page")]) == 1
    assert "holds neither a run nor a measurement" in capsys.readouterr().err


def test_refused_cases_count_as_failed_and_are_told(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def picky(path: str, body: dict[str, Any]) -> Reply:
        return refusal(400, "too long") if prompt_of(body) in ("say 1", "say 2") else right(path, body)

    with scripted_endpoint(picky) as endpoint:
        assert evaluate(suite, endpoint.url, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "| exact_match | base | 0.900" in printed
    assert "- base: the endpoint refused 2 cases, which count as score 0." in printed
    assert "(refused: 400: too long)" in printed


@pytest.mark.parametrize("given", [["--api-key", "sesame"], ["--api-key=sesame"]])
def test_the_recorded_command_has_no_key(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["outrider", "eval", "run", *given, "--out", "x"])
    assert "sesame" not in own_command()
    assert own_command().endswith("--out x")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--variant", "mtp"], "is written name=json"),
        (["--variant", "mtp={"], "variant mtp: not JSON"),
        (["--variant", 'mtp={"speculations": {}}'], "variant mtp: .*speculations"),
        (["--margin", "0"], "--margin 0: must lie between 0 and 1"),
    ],
)
def test_mistakes_are_told(
    suite: Path, tmp_path: Path, more: Sequence[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_endpoint(right) as endpoint:
        assert evaluate(suite, endpoint.url, tmp_path / "out", *more) == 1
        assert not endpoint.requests
    said = capsys.readouterr()
    assert re.search(f"^outrider eval: .*{told}", said.err, re.MULTILINE)
    assert "Traceback" not in said.err


def test_a_bad_suite_and_a_dead_endpoint_are_told(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path / "none.yaml", "http://127.0.0.1:9", tmp_path / "out") == 1
    assert "none.yaml: there is no such file" in capsys.readouterr().err
    assert evaluate(suite, "http://127.0.0.1:9", tmp_path / "out", "--attempts", "1") == 1
    assert "nothing answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_answered_and_the_same_command_goes_on(suite: Path, tmp_path: Path) -> None:
    numbers, is_interrupted = itertools.count(), threading.Event()

    def held_after_four(path: str, body: dict[str, Any]) -> Reply:
        if next(numbers) >= 4:
            is_interrupted.wait(LIMIT_S)
        return right(path, body)

    def heed_ctrl_c() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    answers = tmp_path / "out" / "answers.jsonl"
    with scripted_endpoint(held_after_four) as endpoint:
        command = [sys.executable, "-m", "deployments.cli.main", "eval", "run", str(suite), "--url", endpoint.url]
        command += ["--out", str(tmp_path / "out"), "--concurrency", "2"]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
            preexec_fn=heed_ctrl_c,
        )
        deadline_s = time.monotonic() + LIMIT_S
        while not answers.exists() or len(answers.read_text().splitlines()) < 4 or endpoint.in_flight < 2:
            assert time.monotonic() < deadline_s
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT_S)
        is_interrupted.set()
        assert process.returncode == 130, errors
        num_kept = len(answers.read_text().splitlines())
        assert num_kept == 4
        assert f"stopped: {num_kept} answers are kept, and the same command goes on" in errors
        assert "Traceback" not in errors
        num_asked = len(endpoint.requests)
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr
        assert len(endpoint.requests) == num_asked + 20 - num_kept
    assert "| exact_match | base | 1.000 (1.000 to 1.000) | 1.000 | 0.0 % | 20 |" in done.stdout


def test_the_command_of_a_missing_extra_is_told(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "jinja2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with scripted_endpoint(right) as endpoint:
        assert evaluate(suite, endpoint.url, tmp_path / "out") == 1
    assert "jinja2 is not installed: pip install 'outrider[eval]'" in capsys.readouterr().err
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 20
