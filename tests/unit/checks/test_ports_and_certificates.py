"""Taken ports, and certificates that would not be let in."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster.ports import free_ports
from deployments.checks.certificates import check_certificates
from deployments.checks.ports import check_ports
from deployments.cli.certificates import issue, make_authority
from deployments.config import OutriderConfig, parse


def test_a_taken_endpoint_port_is_a_problem_and_a_free_one_is_not() -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        config = parse({"ingress": {"port": port}})
        endpoint, streams = check_ports(config)
        assert (endpoint.state, streams.state) == ("problem", "ok")
        assert str(port) in endpoint.detail
        assert "ingress.port" in endpoint.remedy
    assert check_ports(config)[0].state == "ok"


def test_a_streams_range_that_is_taken_is_a_problem() -> None:
    config = OutriderConfig()
    endpoint, streams = check_ports(config, is_free=lambda host, port: port in (8000, 23_700, 23_701))
    assert (endpoint.state, streams.state) == ("ok", "problem")
    assert "2 of the streams' ports" in streams.detail
    assert "3 are needed" in streams.detail
    assert "streams.port_range" in streams.remedy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities' certificates, one of which ends in a week and one of which has ended."""
    made = tmp_path_factory.mktemp("certificates")
    authority, stranger = make_authority(365), make_authority(365)
    for name, issued in (
        ("ca", authority),
        ("good", issue(authority, 90)),
        ("soon", issue(authority, 7)),
        ("ended", issue(authority, -1)),
        ("foreign", issue(stranger, 90)),
    ):
        (made / f"{name}.crt").write_bytes(issued.pem)
        (made / f"{name}.key").write_bytes(issued.key_pem)
    (made / "junk.crt").write_text("no certificate")
    return made


def with_files(folder: Path, ca: str, cert: str, key: str) -> OutriderConfig:
    files = {"ca_file": str(folder / ca), "cert_file": str(folder / cert), "key_file": str(folder / key)}
    return parse({"streams": {"host": "node", "tls": files}})


def test_good_certificates(folder: Path) -> None:
    findings = check_certificates(with_files(folder, "ca.crt", "good.crt", "good.key"))
    assert [finding.state for finding in findings] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("ca", "cert", "key", "state", "said"),
    [
        ("ca.crt", "none.crt", "good.key", "problem", "none.crt is not there"),
        ("ca.crt", "good.crt", "soon.key", "problem", "do not belong together"),
        ("ca.crt", "junk.crt", "good.key", "problem", "do not belong together"),
        ("junk.crt", "good.crt", "good.key", "problem", "not signed by"),
        ("ca.crt", "foreign.crt", "foreign.key", "problem", "not signed by"),
        ("ca.crt", "ended.crt", "ended.key", "problem", "not now"),
        ("ca.crt", "soon.crt", "soon.key", "warning", "only"),
    ],
)
def test_what_is_wrong_is_told_with_a_remedy(folder: Path, ca: str, cert: str, key: str, state: str, said: str) -> None:
    worst = check_certificates(with_files(folder, ca, cert, key))[-1]
    assert (worst.state, said in worst.detail) == (state, True), worst
    assert "outrider certificates" in worst.remedy


def test_a_good_certificate_is_not_good_for_ever(folder: Path) -> None:
    later = datetime.now(UTC) + timedelta(days=100)
    assert check_certificates(with_files(folder, "ca.crt", "good.crt", "good.key"), later)[1].state == "problem"


def test_without_tls() -> None:
    assert check_certificates(OutriderConfig())[0].state == "ok"
    plain = parse({"streams": {"host": "node", "insecure_streams": True}})
    assert check_certificates(plain)[0].state == "warning"
