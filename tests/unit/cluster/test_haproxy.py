"""HAProxy itself, with the configuration lines that Serve writes: what it answers where no ingress is."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster import haproxy
from cluster.front import ENABLE, Front
from cluster.ports import free_ports

TIMEOUT_S = 60.0


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A frontend whose only server is not there, and the refusal as Serve words it."""
    (tmp_path / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno")
    nobody, port = free_ports(2)
    lines = [
        "defaults",
        "    mode http",
        "    timeout connect 1s",
        "    timeout client 5s",
        "    timeout server 5s",
        *(f"    errorfile {status} {tmp_path / '500.http'}" for status in (502, 503, 504)),
        "frontend http_frontend",
        f"    bind 127.0.0.1:{port}",
        "    default_backend ingress",
        "backend ingress",
        f"    server replica 127.0.0.1:{nobody}",
        "",
    ]
    file = tmp_path / "haproxy.cfg"
    file.write_text("\n".join(lines))
    (tmp_path / "port").write_text(str(port))
    return file


@pytest.fixture
def url(config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    front = Front()
    monkeypatch.delenv(ENABLE, raising=False)
    front.open(600.0)
    # As Serve does it: with the variable that names the command in the command's own environment.
    process = subprocess.Popen([os.environ[haproxy.BINARY], "-db", "-f", str(config)], stderr=subprocess.PIPE)
    try:
        yield f"http://127.0.0.1:{(config.parent / 'port').read_text()}"
        # It has become HAProxy itself: Serve asks for this very process, and finds it by its configuration's path.
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        assert os.path.basename(line[0]) == b"haproxy"
        assert str(config).encode() in line
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_S)
        front.close()


def test_a_refusal_is_in_openais_shape_and_says_when_to_come_back(url: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            response = httpx.post(f"{url}/v1/chat/completions", json={}, timeout=TIMEOUT_S)
            break
        except httpx.ConnectError:
            assert time.monotonic() < deadline_s, "HAProxy does not listen"
            time.sleep(0.05)
    assert (response.status_code, response.headers["content-type"]) == (503, "application/json")
    assert int(response.headers["retry-after"]) == haproxy.RETRY_AFTER_S
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "unavailable"


def test_a_configuration_without_a_refusal_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text("defaults\n")
    haproxy.mend(file)
    assert [path.name for path in tmp_path.iterdir()] == ["haproxy.cfg"]
