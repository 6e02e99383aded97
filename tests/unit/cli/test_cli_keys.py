"""`outrider keys`: a key is printed once, its hash is kept, and bounds set by hand stay."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from deployments.cli.main import main
from deployments.ingress.tenants import KeyRing, read_tenants

BOUNDS = "tenants:\n- name: acme\n  max_concurrent_requests: 3\n  drafters: [mtp, none]\n"


def keys(file: Path, *arguments: str) -> int:
    return main(["keys", *arguments, "--file", str(file)])


def test_a_key_is_made_listed_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(BOUNDS)
    made = []
    for tenant in ("acme", "acme", "beta"):
        assert keys(file, "new", tenant) == 0
        said = capsys.readouterr()
        (key,) = said.out.split()
        made.append(key)
        assert key not in said.err
        assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    tenants = read_tenants(file)
    assert tenants.tenants[0].max_concurrent_requests == 3
    assert tenants.tenants[0].drafters == ("mtp", "none")
    assert keys(file, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["acme", "beta"]
    first, second, third = (line.split()[0] for line in lines if line.startswith(" "))
    assert keys(file, "revoke", second) == 0
    ring = KeyRing(read_tenants(file))
    names = [tenant and tenant.name for tenant in map(ring.tenant_of, made)]
    assert names == ["acme", None, "beta"]
    assert keys(file, "revoke", second) == 1
    assert second in capsys.readouterr().err
    assert first != third


def test_a_key_may_be_made_for_some_days(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.yaml"
    assert keys(file, "new", "acme", "--days", "1.5") == 0
    key = capsys.readouterr().out.strip()
    ring, now = KeyRing(read_tenants(file)), datetime.now(UTC)
    assert ring.tenant_of(key, now + timedelta(days=1)) is not None
    assert ring.tenant_of(key, now + timedelta(days=2)) is None
    assert yaml.safe_load(file.read_text())["tenants"][0]["keys"][0]["expires"].endswith("Z")


def test_an_empty_file_is_one_to_begin_with(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.touch()
    assert keys(file, "new", "acme") == 0
    assert [tenant.name for tenant in read_tenants(file).tenants] == ["acme"]


@pytest.mark.parametrize("arguments", [("new", "a b"), ("revoke", ""), ("revoke", "00"), ("list",)])
def test_what_cannot_be_done_changes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("tenants: 3" if arguments == ("list",) else BOUNDS)
    before = file.read_text()
    assert keys(file, *arguments) == 1
    assert capsys.readouterr().err.startswith("outrider keys: ")
    assert file.read_text() == before
