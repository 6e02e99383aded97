"""`outrider serve --address`: joins a running cluster, says where it answers, and takes only its own away."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from cluster.ports import free_ports
from tests.support.ray_cluster import RayCluster, ray_cluster
from tests.support.serve_process import BIN, quiet_environment
from tests.support.tiny_checkpoint import tiny_settings

pytestmark = pytest.mark.system

TIMEOUT_S = 300.0
NEIGHBOUR = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Neighbour:
    def __call__(self, request):
        return "still here"

app = Neighbour.bind()
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RayCluster]:
    with ray_cluster(tmp_path, head_cpus=2) as cluster:
        yield cluster


def start(cluster: RayCluster, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
    log = cluster.folder / "serve-on.log"
    command = [str(BIN / "outrider"), "serve", "--address", cluster.address, *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=cluster.environment)
    return process, log


def wait_for_text(process: subprocess.Popen[bytes], log: Path, text: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.2)


def test_it_joins_serves_and_leaves_the_neighbour_alone(cluster: RayCluster) -> None:
    (port,) = free_ports(1)
    (cluster.folder / "neighbour.py").write_text(NEIGHBOUR)
    paths = (str(cluster.folder), cluster.environment.get("PYTHONPATH"))
    fields = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "neighbour",
                "route_prefix": "/neighbour",
                "import_path": "neighbour:app",
                "runtime_env": {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, paths))}},
            }
        ],
    }
    (cluster.folder / "neighbour.yaml").write_text(yaml.safe_dump(fields))
    cluster.run("serve", "deploy", str(cluster.folder / "neighbour.yaml"), "--address", cluster.dashboard)
    (cluster.folder / "config.yaml").write_text(yaml.safe_dump(tiny_settings(cluster.folder)))
    (other_port,) = free_ports(1)
    elsewhere, its_log = start(cluster, "--config", str(cluster.folder / "config.yaml"), "--port", str(other_port))
    assert elsewhere.wait(TIMEOUT_S) == 1
    assert f"Serve listens on 127.0.0.1:{port} on this cluster, not on 127.0.0.1:{other_port}" in its_log.read_text()
    process, log = start(cluster, "--config", str(cluster.folder / "config.yaml"), "--port", str(port))
    try:
        wait_for_text(process, log, "Ctrl-C removes the application; the cluster stays.")
        url = f"http://127.0.0.1:{port}"
        assert f"endpoint    {url}/v1" in log.read_text()
        body = {"model": "tiny", "prompt": "the contract", "max_tokens": 8}
        assert httpx.post(f"{url}/v1/completions", json=body, timeout=TIMEOUT_S).status_code == httpx.codes.OK
        second, second_log = start(cluster, "--config", str(cluster.folder / "config.yaml"), "--port", str(port))
        assert second.wait(TIMEOUT_S) == 1
        assert "serves an application 'outrider' already" in second_log.read_text()
        assert httpx.get(f"{url}/ready", timeout=TIMEOUT_S).status_code == httpx.codes.OK
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
    assert httpx.get(f"{url}/neighbour", timeout=TIMEOUT_S).text == "still here"
    status = cluster.run("serve", "status", "--address", cluster.dashboard).stdout
    assert set(yaml.safe_load(status)["applications"]) == {"neighbour"}


def test_without_a_cluster_it_says_so(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    lonely = RayCluster(tmp_path, f"127.0.0.1:{port}", 1, quiet_environment())
    process, log = start(lonely)
    assert process.wait(TIMEOUT_S) == 1
    assert f"no Ray cluster can be joined at '127.0.0.1:{port}'" in log.read_text()
