"""`outrider certificates`: files that streams accept, from one authority however often it is called."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import yaml

from deployments.cli.main import main
from deployments.config import parse
from deployments.link import LinkSettings, StreamTls, TlsFiles
from tests.unit.test_link import Recorder, house


async def test_two_sets_of_one_authority_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "certificates"
    assert main(["certificates", str(folder)]) == 0
    said = capsys.readouterr().out
    streams = parse(yaml.safe_load(said[said.index("streams:") :])).streams
    assert streams.tls.files is not None
    first = StreamTls(TlsFiles(*streams.tls.files))
    authority = (folder / "ca.crt").read_bytes()
    assert main(["certificates", str(folder), "--days", "1"]) == 0
    assert (folder / "ca.crt").read_bytes() == authority
    second = StreamTls(TlsFiles(*streams.tls.files))
    async with house(LinkSettings(tls=first)) as h:
        assert not (await h.dial(Recorder(), settings=LinkSettings(tls=second))).is_closed
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert modes == {"ca.crt": 0o600, "ca.key": 0o600, "tls.crt": 0o600, "tls.key": 0o600}


def test_what_is_no_authority_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ca.key").write_text("mine")
    assert main(["certificates", str(tmp_path)]) == 1
    assert "outrider certificates:" in capsys.readouterr().err
    assert (tmp_path / "ca.key").read_text() == "mine"
