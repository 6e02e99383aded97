"""`outrider serve` as a child process, and the processes below it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.ports import free_ports

BIN = Path(sysconfig.get_path("scripts"))
START_TIMEOUT_S = 600.0  # half a minute where nothing else runs
STOP_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Server:
    """A running `outrider serve`, and the folder with its configuration and log."""

    process: subprocess.Popen[str]
    folder: Path
    port: int
    dashboard_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "serve.log").read_text()

    @property
    def ray_address(self) -> str:
        """Where another process can join the cluster."""
        for line in processes_below(self.process.pid).values():
            if match := re.search(r"--gcs-address=(\S+)", line):
                return match[1]
        raise AssertionError("no raylet")

    def replicas(self, deployment: str) -> set[int]:
        """Process ids of a deployment's replicas."""
        below = processes_below(self.process.pid)
        return {pid for pid, line in below.items() if line.startswith(f"ray::ServeReplica:outrider:{deployment}")}

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ctrl-C, or another signal; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)


def start_server(folder: Path, settings: dict[str, object]) -> Server:
    """Start `outrider serve` on free ports; returns once it says that it is ready."""
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    port, dashboard_port = free_ports(2)
    command = [str(BIN / "outrider"), "serve", "--config", str(folder / "config.yaml"), "--port", str(port)]
    command += ["--dashboard-port", str(dashboard_port), "--start-timeout-s", str(START_TIMEOUT_S)]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, env=quiet_environment())
    server = Server(process, folder, port, dashboard_port)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while "Ctrl-C stops everything" not in server.log:
        if process.poll() is not None or time.monotonic() > deadline_s:
            process.kill()
            raise AssertionError(f"the server did not start:\n{server.log}")
        time.sleep(0.2)
    return server


def running_server(folder: Path, settings: dict[str, object]) -> Iterator[Server]:
    """A server for the length of a fixture."""
    server = start_server(folder, settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does not run while the context lasts, and then goes on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def quiet_environment() -> dict[str, str]:
    """The environment of a subprocess that uses Ray, whose own warnings are not ours to fix."""
    return {**os.environ, "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token"}


def processes_below(root: int) -> dict[int, str]:
    """Command lines of a process's descendants, zombies left out."""
    lines: dict[int, str] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", name, "stat").read_text()
            line = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:  # gone by now
            continue
        state, parent = stat.rpartition(")")[2].split()[:2]
        if state != "Z":
            lines[int(name)] = line
            children[int(parent)].append(int(name))
    below, waiting = {}, [root]
    while waiting:
        for pid in children[waiting.pop()]:
            below[pid] = lines[pid]
            waiting.append(pid)
    return below


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
