"""A server of one's own for the length of a run: `outrider serve` in a subprocess, on free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from cluster.ports import free_ports

READY_TIMEOUT_S = 300.0
GRACE_S = 45.0
"""How long a server may take to stop its cluster before it is killed."""


class ServerError(RuntimeError):
    """The server did not come up; the message ends with the tail of its log."""


def serve_command(port: int, dashboard_port: int, config: Path | None) -> list[str]:
    """The command line of a server that does not collide with one already running."""
    outrider = Path(sysconfig.get_path("scripts")) / "outrider"
    command = [str(outrider), "serve", "--port", str(port), "--dashboard-port", str(dashboard_port)]
    return command + (["--config", str(config)] if config else [])


@contextmanager
def running_server(config: Path | None = None, ready_timeout_s: float = READY_TIMEOUT_S) -> Iterator[str]:
    """Start `outrider serve`, yield its address once it is ready, and stop it however the block ends."""
    port, dashboard_port = free_ports(2)
    with running(serve_command(port, dashboard_port, config), f"http://127.0.0.1:{port}", ready_timeout_s) as url:
        yield url


@contextmanager
def running(command: Sequence[str], url: str, ready_timeout_s: float) -> Iterator[str]:
    """Run a server command that will answer at `url`."""
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C reaches the bench alone, which then stops the server in order, once.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_until_ready(process, url, ready_timeout_s)
            yield url
        except ServerError as error:
            log.seek(0)
            raise ServerError(f"{error}\n{log.read()[-4000:].decode(errors='replace')}") from None
        finally:
            stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, timeout_s: float) -> None:
    """Poll /ready. Raises ServerError when the process ends or the time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerError(f"the server ended with exit status {process.returncode}")
        try:
            if httpx.get(f"{url}/ready", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise ServerError(f"the server was not ready after {timeout_s:.0f} s")


def stop(process: subprocess.Popen[bytes], grace_s: float = GRACE_S) -> None:
    """Interrupt the server as Ctrl-C would, and kill what is left of its session after `grace_s`."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(grace_s)
            except subprocess.TimeoutExpired:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(min(5.0, grace_s))
    finally:
        # Also where another Ctrl-C did not want to wait.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
