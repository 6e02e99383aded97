"""HAProxy itself, with lines that Serve writes: what it answers where no ingress is, and how it hears who has left."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from cluster import haproxy
from cluster.front import ENABLE, Front
from cluster.ports import free_ports

TIMEOUT_S = 60.0
LEAVING_S = 4.0
"""Less than the server's time to answer, after which HAProxy would hang up in any case."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A frontend whose only server is not there, and the refusal as Serve words it."""
    (tmp_path / "500.http").write_text("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno")
    ingress, port = free_ports(2)
    lines = [
        "defaults",
        "    mode http",
        "    timeout connect 1s",
        "    timeout client 3600s",
        "    timeout server 5s",
        "    option abortonclose",
        "    option splice-request",
        "    option splice-response",
        "    option http-no-delay",
        *(f"    errorfile {status} {tmp_path / '500.http'}" for status in (502, 503, 504)),
        "frontend http_frontend",
        f"    bind 127.0.0.1:{port}",
        "    default_backend ingress",
        "backend ingress",
        "    http-reuse always",
        f"    server replica 127.0.0.1:{ingress}",
        "",
    ]
    file = tmp_path / "haproxy.cfg"
    file.write_text("\n".join(lines))
    (tmp_path / "port").write_text(str(port))
    (tmp_path / "ingress").write_text(str(ingress))
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


def until_it_listens(url: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            httpx.get(url, timeout=TIMEOUT_S)
            break
        except httpx.ConnectError:
            assert time.monotonic() < deadline_s, "HAProxy does not listen"
            time.sleep(0.05)


def test_a_refusal_is_in_openais_shape_and_says_when_to_come_back(url: str) -> None:
    until_it_listens(url)
    response = httpx.post(f"{url}/v1/chat/completions", json={}, timeout=TIMEOUT_S)
    assert (response.status_code, response.headers["content-type"]) == (503, "application/json")
    assert int(response.headers["retry-after"]) == haproxy.RETRY_AFTER_S
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == "unavailable"


@pytest.mark.parametrize("size", [60, 30_000])
@pytest.mark.parametrize("is_whole", [True, False], ids=["in one piece", "head and body apart"])
def test_the_ingress_hears_of_a_client_that_has_left(url: str, config: Path, size: int, is_whole: bool) -> None:
    until_it_listens(url)
    ingress = int((config.parent / "ingress").read_text())
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()
    pieces = [head + b" " * size] if is_whole else [head, b" " * size]
    with socket.create_server(("127.0.0.1", ingress)) as server:
        server.settimeout(TIMEOUT_S)
        client = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0))
        received = b""
        client.sendall(pieces[0])
        connection, _ = server.accept()
        connection.settimeout(TIMEOUT_S)
        for piece in pieces[1:]:
            while b"\r\n\r\n" not in received:
                received += connection.recv(1 << 16)
            client.sendall(piece)
        while not received.endswith(b"\r\n\r\n" + b" " * size):
            received += connection.recv(1 << 16)
        client.close()
        connection.settimeout(LEAVING_S)
        with connection, suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_a_head_that_never_ends_is_hung_up_on(url: str) -> None:
    until_it_listens(url)
    with socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=TIMEOUT_S) as client:
        client.sendall(b"GET / HT")
        assert client.recv(1 << 16).startswith(b"HTTP/1.0 408 ") or client.recv(1) == b""


def test_what_a_configuration_says_itself_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    for text in ("global\n", "defaults\n    timeout http-request 7s\n    timeout http-keep-alive 9s\n"):
        file.write_text(text)
        haproxy.mend(file)
        assert file.read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["haproxy.cfg"]
