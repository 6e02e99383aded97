"""What k8s/ deploys, on a real Ray cluster of labelled nodes: `serve deploy`, the check-up, and nodes that go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.ports import free_ports
from tests.support.ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.system

OVERLAY = Path(__file__).resolve().parents[2] / "k8s" / "overlays" / "cpu-smoke"
TIMEOUT_S = 300.0
PROMPT = "Finish the code below.\n\ndef mean(values):\n"


class Deployed:
    """The cluster with cpu-smoke on it."""

    def __init__(self, cluster: RayCluster, port: int) -> None:
        self.cluster = cluster
        self.url = f"http://127.0.0.1:{port}"

    def answer(self, **fields: Any) -> tuple[str, int]:
        """The text of a fixed request, and how many tokens were drafted for it."""
        body = {"model": "pocket", "prompt": PROMPT, "max_tokens": 64, "temperature": 0.8, "seed": 7, **fields}
        response = httpx.post(f"{self.url}/v1/completions", json=body, timeout=TIMEOUT_S)
        assert response.status_code == httpx.codes.OK, response.text
        fields = response.json()
        drafted = fields["metrics"]["speculative_decoding"]["num_draft_tokens"]
        return str(fields["choices"][0]["text"]), int(drafted)


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"no {what} within {TIMEOUT_S} s"
        time.sleep(0.5)


def drain_timeout_s(group: str) -> float:
    """What the manifest lets a pod of the group take to drain."""
    service = yaml.safe_load((OVERLAY.parents[1] / "base" / "rayservice.yaml").read_text())
    pods = {g["groupName"]: g["template"]["spec"] for g in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    environment = {entry["name"]: entry["value"] for entry in pods[group]["containers"][0]["env"]}
    return float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])


def add_group(cluster: RayCluster, group: str, name: str | None = None, num_cpus: int = 1) -> None:
    labels = {"outrider/group": group}
    cluster.add(name or group, labels, num_cpus=num_cpus, drain_timeout_s=drain_timeout_s(group))


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("cluster")
    with ray_cluster(folder) as cluster:
        add_group(cluster, "control", num_cpus=2)  # two pods of one CPU each in the manifests
        add_group(cluster, "verifiers")
        add_group(cluster, "drafters")
        (port,) = free_ports(1)
        fields = yaml.safe_load((OVERLAY / "serve.yaml").read_text())
        fields["http_options"] = {"host": "127.0.0.1", "port": port}  # nothing else differs from the overlay's
        (folder / "serve.yaml").write_text(yaml.safe_dump(fields))
        cluster.run("serve", "deploy", str(folder / "serve.yaml"), "--address", cluster.dashboard)
        made = Deployed(cluster, port)

        def is_ready() -> bool:
            try:
                return httpx.get(f"{made.url}/ready", timeout=TIMEOUT_S).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        wait_for(is_ready, "answer from /ready")
        yield made


def test_cpu_smoke_answers_with_drafted_tokens_and_the_same_text_without(deployed: Deployed) -> None:
    # Left to itself the router may find that drafting this answer does not pay.
    wait_for(lambda: deployed.answer(speculation={"num_speculative_tokens": 4})[1] > 0, "drafted token")
    text, drafted = deployed.answer(speculation={"num_speculative_tokens": 4})
    plain, none = deployed.answer(speculation={"num_speculative_tokens": 0})
    assert (text, none) == (plain, 0)
    assert drafted > 0
    assert text


def test_the_doctor_finds_a_place_for_every_role(deployed: Deployed, tmp_path: Path) -> None:
    cluster = deployed.cluster
    good = cluster.try_run("outrider", "doctor", str(OVERLAY / "outrider.yaml"), "--address", cluster.address)
    for role, size in (
        ("ingress", "2 of 0.4"),
        ("router", "2 of 0.4"),
        ("verifier", "1 of 0.9"),
        ("drafter", "1 of 0.9"),
    ):
        assert f"machines: {role}: {size} CPUs find a place" in good.stdout
    fields = yaml.safe_load((OVERLAY / "outrider.yaml").read_text())
    fields["drafter"]["node_labels"] = {"outrider/group": "draughtsmen"}
    fields["verifier"]["num_replicas"] = 3
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(fields))
    bad = cluster.try_run("outrider", "doctor", str(tmp_path / "bad.yaml"), "--address", cluster.address)
    assert bad.returncode == 1
    assert "drafter wants nodes with outrider/group: draughtsmen; there are control, drafters, verifiers" in bad.stdout
    assert "verifier: 2 replica(s) of 0.9 CPUs find no place" in bad.stdout


def stream(deployed: Deployed, text: list[str], is_running: threading.Event) -> None:
    """A long answer, token by token, into `text`; raises if anything is missing."""
    body = {"model": "pocket", "prompt": PROMPT, "max_tokens": 600, "temperature": 0.8, "seed": 11, "stream": True}
    with httpx.stream("POST", f"{deployed.url}/v1/completions", json=body, timeout=TIMEOUT_S) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event = yaml.safe_load(line.removeprefix("data: "))
                assert "error" not in event, event
                text.append(event["choices"][0]["text"])
                is_running.set()
    text.append("[end]")


@pytest.mark.parametrize("group", ["drafters", "verifiers"])
def test_a_node_that_gets_sigterm_drains_and_no_stream_notices(deployed: Deployed, group: str) -> None:
    cluster = deployed.cluster
    expected: list[str] = []
    stream(deployed, expected, threading.Event())
    if group == "verifiers":  # sessions move to another one; a service without drafters just runs plain
        add_group(cluster, group, "spare")
    seen: list[str] = []
    is_running = threading.Event()
    reader = threading.Thread(target=stream, args=(deployed, seen, is_running))
    reader.start()
    assert is_running.wait(TIMEOUT_S)
    departure = cluster.terminate(group, TIMEOUT_S)
    reader.join(TIMEOUT_S)
    assert "".join(seen) == "".join(expected)
    assert seen[-1] == "[end]"
    assert f"Draining for up to {drain_timeout_s(group)} seconds" in cluster.log(group)
    # Serve has drained the replica: it went well before Ray would have given up and killed it.
    assert 0 < departure.replicas_s < drain_timeout_s(group) - 2, (departure, cluster.log(group))
    if group == "verifiers":  # a drafters' node may be killed with its proxy, which has no clients there
        assert "Local node finished draining" in cluster.log(group)
    if group == "drafters":
        add_group(cluster, group)
    wait_for(lambda: deployed.answer(speculation={"num_speculative_tokens": 4})[1] > 0, "drafted token")
