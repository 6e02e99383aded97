"""Bad input to the command ends in a sentence that names the flag, and before anything has begun."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cluster.ports import free_ports
from deployments.cli import arguments
from deployments.cli.main import main
from tests.support.fake_endpoint import fake_endpoint

NOWHERE = "http://127.0.0.1:99999"
BROKEN = "http://[::1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("serve --port abc", "--port: abc is no port"),
        ("serve --start-timeout-s -1", "--start-timeout-s: must be a number above 0, not -1"),
        ("serve --start-timeout-s nan", "--start-timeout-s: must be a number above 0, not nan"),
        ("chat hi --temperature nan", "--temperature: must be a number, not nan"),
        ("chat hi --max-tokens 0", "--max-tokens: must be at least 1, not 0"),
        ("chat hi --num-speculative-tokens -1", "--num-speculative-tokens: must be at least 0, not -1"),
        ("keys new a --days 1e20", "--days: must be days from now"),
        ("keys new a --days -1", "--days: must be days from now"),
        ("certificates folder --days inf", "--days: must be days from now"),
        ("certificates folder --days nan", "--days: must be days from now"),
        ("dashboards push --url http://x --timeout-s 0", "--timeout-s: must be a number above 0, not 0"),
        ("top --interval-s abc", "--interval-s: must be a number, not abc"),
        ("eval run s --url http://x --timeout nan", "--timeout: must be a number above 0, not nan"),
        ("eval run s --url http://x --near-tie -1", "--near-tie: must be a number of at least 0, not -1"),
        ("eval load --url http://x --streams 1,,2", "--streams: must be at least 1, not "),
        ("bench --out /etc/passwd/x", "--out: '/etc/passwd/x' cannot be written: Not a directory"),
        ("bench engine --out /etc/passwd/x", "--out: '/etc/passwd/x' cannot be written: Not a directory"),
        ("bench sweep --budget inf", "--budget: must be a number above 0, not inf"),
        ("bench accelerator --out /etc/passwd/x", "--out: '/etc/passwd/x' cannot be written: Not a directory"),
        ("bench accelerator --sessions 0", "--sessions: must be at least 1, not 0"),
        ("bench accelerator --lookaheads -1", "--lookaheads: must be at least 0, not -1"),
        ("bench accelerator --budget-s nan", "--budget-s: must be a number above 0, not nan"),
        ("bench accelerator --context -5", "--context: must be at least 1, not -5"),
    ],
)
def test_a_value_that_is_none_names_its_flag(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main(line.split(" "))
    assert exit_status.value.code == 2
    assert f"error: argument {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (f"top --once --url {BROKEN}", 1, f"outrider top: {BROKEN} cannot be read: '{BROKEN}' is not an address"),
        (f"chat hi --url {BROKEN}", 1, f"outrider chat: '{BROKEN}' is not an address"),
        ("chat hi --url localhost:8000", 1, "outrider chat: 'localhost:8000' is not an http address"),
        (f"eval run extraction --url {NOWHERE}", 1, f"outrider eval: '{NOWHERE}' is not an address: no port is 99999"),
        (f"bench --no-hf --url {BROKEN}", 1, f"outrider bench: '{BROKEN}' is not an address"),
        (f"bench sweep --url {NOWHERE}", 1, f"outrider bench sweep: '{NOWHERE}' is not an address: no port is 99999"),
        (f"dashboards push --token-file token --url {BROKEN}", 2, f"'{BROKEN}' is no address of a Grafana"),
        (f"dashboards diff --token-file token --url {NOWHERE}", 2, f"'{NOWHERE}' is no address of a Grafana"),
        ("dashboards diff --token-file bytes --url http://x", 2, "outrider dashboards: bytes holds no token"),
        ("keys new a/b", 1, "outrider keys: 'a/b' is no name of a tenant (letters, digits, "),
        ("bench engine --systems vllm", 1, "outrider bench engine: vLLM alone needs --vllm-python"),
        ("eval run extraction --url http://x --api-key schlüssel", 1, "the API key has characters that no HTTP header"),
    ],
)
def test_what_cannot_be_used_is_a_sentence(
    line: str,
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("token").write_text("secret\n")
    Path("bytes").write_bytes(bytes(range(256)))
    assert main(line.split(" ")) == status
    told = capsys.readouterr().err
    assert said in told.strip().splitlines()[-1]
    assert "Traceback" not in told


def test_a_key_that_no_header_carries_is_not_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setenv("OUTRIDER_API_KEY", "gehe\nim")
    assert main(["chat", "hi", "--url", url]) == 1
    (tmp_path / "key").write_text("gehe\nim")
    assert main(["top", "--once", "--url", url, "--key-file", str(tmp_path / "key")]) == 1
    said = capsys.readouterr().err
    assert said.count("characters that no HTTP header carries") == 2
    assert "gehe" not in said


@pytest.mark.parametrize("path", ["", "/", "/v1"])
def test_chat_takes_an_address_as_servers_print_it_and_needs_no_acceptance_length(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_endpoint() as fake:
        assert main(["chat", "hi", "--url", fake.url + path]) == 0
    assert "tokens/s, 10 tokens" in capsys.readouterr().out


def test_a_folder_is_made_before_anything_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("kept")
    with fake_endpoint() as fake:
        assert main(["eval", "load", "--url", fake.url, "--classes", "code", "--out", str(tmp_path / "file")]) == 1
    assert not fake.requests
    assert "File exists" in capsys.readouterr().err


def test_looking_whether_a_file_can_be_written_changes_nothing(tmp_path: Path) -> None:
    there, other = tmp_path / "there", tmp_path / "other"
    there.write_text("kept")
    assert [arguments.output_file(str(file)) for file in (there, other)] == [there, other]
    assert there.read_text() == "kept"
    assert not other.exists()
    with pytest.raises(argparse.ArgumentTypeError, match="Is a directory"):
        arguments.output_file(str(tmp_path))
