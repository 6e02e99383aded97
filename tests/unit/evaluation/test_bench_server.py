"""A server started for a run is stopped however the run ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.ports import free_ports
from evaluation.load.server import ServerError, running, serve_command, stop

SERVER = """
import http.server, os, signal, subprocess, sys
port, notes, manner = int(sys.argv[1]), sys.argv[2], sys.argv[3]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(notes, "w").write(f"{os.getpid()} {child.pid} ")
if manner == "fails":
    sys.exit("port in use, said the server")
if manner == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass
try:
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
except KeyboardInterrupt:
    open(notes, "a").write("interrupted")
"""


def command(port: int, notes: Path, manner: str = "plain") -> list[str]:
    return [sys.executable, "-c", SERVER, str(port), str(notes), manner]


def is_alive(pid: int) -> bool:
    """A zombie counts as dead: its parent just has not looked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_dies(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "a process of the server survives"
        time.sleep(0.02)


def noted_pids(notes: Path) -> list[int]:
    return [int(word) for word in notes.read_text().split()[:2]]


def test_it_is_ready_inside_and_interrupted_after(tmp_path: Path) -> None:
    notes, (port,) = tmp_path / "notes", free_ports(1)
    with running(command(port, notes), f"http://127.0.0.1:{port}", 20) as url:
        assert url.endswith(str(port))
        pids = noted_pids(notes)
        assert all(map(is_alive, pids))
    assert notes.read_text().endswith("interrupted")
    assert_dies(pids)


def test_an_interrupt_in_the_block_stops_it_too(tmp_path: Path) -> None:
    notes, (port,) = tmp_path / "notes", free_ports(1)
    with pytest.raises(KeyboardInterrupt), running(command(port, notes), f"http://127.0.0.1:{port}", 20):
        signal.raise_signal(signal.SIGINT)
    assert_dies(noted_pids(notes))


def test_a_server_that_fails_is_quoted(tmp_path: Path) -> None:
    notes, (port,) = tmp_path / "notes", free_ports(1)
    with (
        pytest.raises(ServerError, match=r"exit status 1(.|\n)*port in use, said the server"),
        running(command(port, notes, "fails"), f"http://127.0.0.1:{port}", 20),
    ):
        raise AssertionError("never ready")
    assert_dies(noted_pids(notes))


def test_a_server_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    notes, (port, elsewhere) = tmp_path / "notes", free_ports(2)
    with (
        pytest.raises(ServerError, match="not ready after 2 s"),
        running(command(port, notes), f"http://127.0.0.1:{elsewhere}", 2),
    ):
        raise AssertionError("never ready")
    assert_dies(noted_pids(notes))


def test_a_stubborn_server_is_killed(tmp_path: Path) -> None:
    notes, (port,) = tmp_path / "notes", free_ports(1)
    process = subprocess.Popen(command(port, notes, "stubborn"), start_new_session=True)
    while not notes.exists() or len(notes.read_text().split()) < 2:
        time.sleep(0.02)
    time.sleep(0.2)
    stop(process, grace_s=0.2)
    assert process.returncode == -signal.SIGKILL
    assert_dies(noted_pids(notes))


def test_an_impatient_second_interrupt_kills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, (port,) = tmp_path / "notes", free_ports(1)
    process = subprocess.Popen(command(port, notes, "stubborn"), start_new_session=True)
    while not notes.exists() or len(notes.read_text().split()) < 2:
        time.sleep(0.02)
    wait, waits = process.wait, []

    def interrupted_once(timeout: float | None = None) -> int:
        waits.append(timeout)
        if len(waits) == 1:
            raise KeyboardInterrupt
        return wait(timeout)

    monkeypatch.setattr(process, "wait", interrupted_once)
    with pytest.raises(KeyboardInterrupt):
        stop(process, grace_s=60.0)
    assert process.returncode is not None
    assert_dies(noted_pids(notes))


def test_the_command_line_names_ports_and_configuration() -> None:
    command_line = serve_command(8010, 8300, Path("file.yaml"))
    assert Path(command_line[0]).name == "outrider"
    assert command_line[1:] == ["serve", "--port", "8010", "--dashboard-port", "8300", "--config", "file.yaml"]
    assert "--config" not in serve_command(8010, 8300, None)
