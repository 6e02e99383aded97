"""docs/evaluation.md's first suite and its commands, as a stranger copies them into an empty folder."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.cli.main import main
from tests.support.scripted_endpoint import Reply, chat, prompt_of, refusal, scripted_endpoint
from tests.unit.evaluation.test_throughput import answer as streamed_answer

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text("utf-8")
ENDPOINT = "http://127.0.0.1:8000"
CAPITALS = {"France": "Paris", "Poland": "Warsaw", "Portugal": "Lisbon", "Hungary": "Budapest", "Ireland": "Dublin"}


def part(title: str) -> str:
    return DOCUMENT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def commands(text: str) -> list[list[str]]:
    """The `outrider` commands of a part, with lines that go on joined."""
    joined = re.sub(r" \\\n\s*", " ", text)
    return [shlex.split(line) for line in re.findall(r"^\$ (outrider .*)$", joined, flags=re.MULTILINE)]


def capital(path: str, body: dict[str, Any]) -> Reply:
    """Knows every capital, but answers Portugal with a sentence."""
    if path == "/tokenize":
        return refusal(404)
    if body.get("stream"):
        return streamed_answer({**body, "prompt": "x"})
    name = next(name for name in CAPITALS if name in prompt_of(body))
    return chat(CAPITALS[name] if name != "Portugal" else "It is Lisbon.")


def test_the_suite_of_the_first_ten_minutes_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = part("A suite of your own, in ten minutes")
    suites = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert len(suites) == 1
    assert len(yaml.safe_load(suites[0])["cases"]) == 5
    Path("capitals.yaml").write_text(suites[0], "utf-8")
    steps = commands(text)
    assert [step[1:3] for step in steps] == [["eval", "run"], ["eval", "run"], ["eval", "load"]]
    with scripted_endpoint(capital) as endpoint:
        for step in steps:
            assert ENDPOINT in step
            more = ["--repeats", "1"] if step[2] == "load" else []
            assert main([*step[1:], *more, "--url", endpoint.url]) == 0, shlex.join(step)
    printed = capsys.readouterr().out
    assert "| exact_match | base | 0.800" in printed
    assert "| one_word | base | 0.800" in printed
    assert "region=west" in printed
    assert "too few cases to tell" in printed
    assert sorted(os.listdir()) == ["capitals", "capitals-mtp", "capitals.yaml"]
    page = Path("capitals-mtp", "report.html").read_text("utf-8")
    assert all(title in page for title in ("Against base", "Throughput"))


def test_every_yaml_and_python_block_of_the_document_is_whole() -> None:
    blocks = re.findall(r"```(yaml|python)\n(.*?)```", DOCUMENT, flags=re.DOTALL)
    assert {kind for kind, _ in blocks} == {"yaml", "python"}
    for kind, block in blocks:
        if kind == "yaml":
            yaml.safe_load(block)
        else:
            compile(block, "docs/evaluation.md", "exec")
