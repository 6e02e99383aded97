"""A Prometheus of its own for a test: what it scrapes, and what it answers."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster.ports import free_ports
from tests.support.debian import require_program
from tests.support.serve_process import Server

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """The data of one call of its API; AssertionError with its words if it refuses."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30.0).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expression: str) -> list[float]:
        """The numbers that an expression yields now, without those that are none."""
        found = [float(series["value"][1]) for series in self.get("query", query=expression)["result"]]
        return [value for value in found if math.isfinite(value)]


def ray_job(server: Server) -> dict[str, Any]:
    """A scrape job for what the agents of a server's cluster export, as its dashboard names them.

    Ray's discovery file under /tmp/ray would not do: each cluster of the machine takes it from the others every five
    seconds, and the servers of other modules live on beside this one.
    """
    discovery = {
        "url": f"http://127.0.0.1:{server.dashboard_port}/api/prometheus/sd",
        "refresh_interval": "5s",
        "authorization": {"type": "Bearer", "credentials_file": str(Path.home() / ".ray" / "auth_token")},
    }
    return {"job_name": "ray", "http_sd_configs": [discovery]}


@contextmanager
def run_prometheus(folder: Path, scrape_configs: list[dict[str, Any]], rules: dict[str, Any]) -> Iterator[Prometheus]:
    """Start one with these jobs and rules, on loopback.

    It scrapes as often as Ray's agents have news. A scrape that takes longer than the interval is given up, and its
    series are gone until the next: an agent whose processor is busy may need some seconds.
    """
    (port,) = free_ports(1)
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    settings = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "2s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": scrape_configs,
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    command = [require_program("prometheus", "prometheus"), "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        _await_start(prometheus, process, folder / "prometheus.log")
        yield prometheus
    finally:
        process.terminate()
        process.wait(_STOP_TIMEOUT_S)


def _await_start(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            if httpx.get(f"{prometheus.url}/-/ready", timeout=5.0).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.1)
