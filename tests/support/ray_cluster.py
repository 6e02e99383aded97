"""A Ray cluster as an operator starts it, of several nodes on this machine: `ray start`, one process per node."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cluster.ports import free_ports
from tests.support.serve_process import BIN, processes_below, quiet_environment

NODE_TIMEOUT_S = 240.0
_HOST = "127.0.0.2"
"""On the loopback; Ray takes 127.0.0.1 to mean the machine's own address."""


class Departure(NamedTuple):
    """Seconds after a SIGTERM: the node's last replica was still there, and the node was gone."""

    replicas_s: float
    node_s: float


@dataclass
class RayCluster:
    """The nodes' `ray start --block` processes by name, and how to talk to the cluster."""

    folder: Path
    address: str
    dashboard_port: int
    environment: dict[str, str]
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    def run(self, *command: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """A command of this environment, against this cluster; AssertionError if it fails."""
        done = self.try_run(*command, timeout_s=timeout_s)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done

    def try_run(self, *command: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """The same, whatever becomes of it."""
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=self.environment,
        )

    def add(self, name: str, labels: Mapping[str, str], *, num_cpus: int = 1, drain_timeout_s: float = 30.0) -> None:
        """Start another node and wait until it has joined."""
        arguments = [f"--address={self.address}", f"--num-cpus={num_cpus}", f"--labels={_text(labels)}"]
        self._start(name, arguments, drain_timeout_s)

    def log(self, name: str) -> str:
        """What a node's `ray start` has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str, arguments: list[str], drain_timeout_s: float = 0.0) -> None:
        environment = self.environment | {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(drain_timeout_s)}
        command = [str(BIN / "ray"), "start", "--block", f"--node-ip-address={_HOST}", "--num-gpus=0"]
        (agent_port,) = free_ports(1)
        command += ["--object-store-memory=100000000", "--disable-usage-stats"]
        command += [f"--dashboard-agent-listen-port={agent_port}", *arguments]
        with (self.folder / f"{name}.log").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        self.nodes[name] = process
        deadline_s = time.monotonic() + NODE_TIMEOUT_S
        while "Ray runtime started" not in self.log(name):
            is_well = process.poll() is None and time.monotonic() < deadline_s
            assert is_well, self.log(name)
            time.sleep(0.2)

    def terminate(self, name: str, timeout_s: float) -> Departure:
        """SIGTERM to a node, as the kubelet sends it, and what happens then."""
        process, begun_s = self.nodes.pop(name), time.monotonic()
        process.send_signal(signal.SIGTERM)
        replicas_s = 0.0
        while process.poll() is None:
            elapsed_s = time.monotonic() - begun_s
            assert elapsed_s < timeout_s, self.log(name)
            if any(line.startswith("ray::ServeReplica:") for line in processes_below(process.pid).values()):
                replicas_s = elapsed_s
            time.sleep(0.2)
        return Departure(replicas_s, time.monotonic() - begun_s)

    def stop(self) -> None:
        """Kill every process of every node."""
        for process in self.nodes.values():
            below = processes_below(process.pid)
            process.kill()
            for pid in below:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait(30)
        self.nodes.clear()


@contextmanager
def ray_cluster(folder: Path, *, head_cpus: int = 0) -> Iterator[RayCluster]:
    """A head that computes nothing, unless it is given CPUs; nodes are added by the test."""
    port, dashboard_port, client_port = free_ports(3)
    environment = quiet_environment() | {
        "RAY_worker_niceness": "0",
    }
    cluster = RayCluster(folder, f"{_HOST}:{port}", dashboard_port, environment)
    head = ["--head", f"--port={port}", f"--dashboard-port={dashboard_port}", "--dashboard-host=127.0.0.1"]
    head += [f"--ray-client-server-port={client_port}", f"--num-cpus={head_cpus}", "--labels=outrider/group=head"]
    try:
        cluster._start("head", head)
        yield cluster
    finally:
        cluster.stop()


def _text(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items())
