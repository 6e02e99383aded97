"""Keys that let somebody in, and files that let nobody in."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.checks.finding import Finding
from deployments.checks.keys import check_keys
from deployments.cli.main import main
from deployments.config import parse


def finding(path: Path | None, host: str = "0.0.0.0") -> Finding:
    (found,) = check_keys(parse({"ingress": {"host": host, "keys_file": None if path is None else str(path)}}))
    return found


def test_keys_that_the_command_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.yaml"
    assert main(["keys", "new", "acme", "--file", str(file)]) == 0
    key = capsys.readouterr().out.split()[-1]
    assert (finding(file).state, finding(file).detail) == ("ok", "1 of 1 keys of 1 tenants are good")
    assert key not in finding(file).detail


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("tenants: [", "no YAML"),
        ("tenants: [{name: acme}]", "none is good today"),
        (
            f"tenants: [{{name: a, keys: [{{sha256: {'a' * 64}, expires: 2020-01-01T00:00:00Z}}]}}]",
            "none is good today",
        ),
    ],
)
def test_a_file_that_lets_nobody_in(tmp_path: Path, text: str | None, said: str) -> None:
    file = tmp_path / "keys.yaml"
    if text is not None:
        file.write_text(text)
    found = finding(file)
    assert (found.state, said in found.detail) == ("problem", True), found
    assert "outrider keys" in found.remedy


def test_no_keys_at_all_is_for_the_loopback() -> None:
    assert finding(None, "127.0.0.1").state == "ok"
    assert finding(None).state == "warning"
