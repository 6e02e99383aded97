"""What `serve deploy` changes on a real Serve while a stream goes on, without a restart: variants, and replicas."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.ports import free_ports
from tests.support.ray_cluster import RayCluster, ray_cluster

pytestmark = pytest.mark.system

TIMEOUT_S = 240.0
PROMPT = "Finish the code below.\n\ndef mean(values):\n"
SPLIT = {"near": {"weight": 1, "num_speculative_tokens": 1}, "far": {"weight": 0, "num_speculative_tokens": 6}}


class Deployed:
    """The pocket pair with a split, and its `serve deploy` file."""

    def __init__(self, cluster: RayCluster, folder: Path, port: int) -> None:
        self.cluster = cluster
        self.url = f"http://127.0.0.1:{port}"
        self.settings = {"ingress": {"port": port}, "speculation": {"variants": SPLIT}}
        self.file = folder / "serve.yaml"
        self.fields = self.configured()
        self.deploy()

    def configured(self, **sections: Any) -> Any:
        """What `outrider config` prints for the settings and some more sections."""
        config = self.file.with_name("outrider.yaml")
        config.write_text(yaml.safe_dump({**self.settings, **sections}))
        return yaml.safe_load(self.cluster.run("outrider", "config", str(config)).stdout)

    def deploy(self) -> None:
        self.file.write_text(yaml.safe_dump(self.fields))
        self.cluster.run("serve", "deploy", str(self.file), "--address", self.cluster.dashboard)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=TIMEOUT_S).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def set_weights(self, near: float, far: float) -> None:
        (ingress,) = self.fields["applications"][0]["deployments"]
        ingress["user_config"]["variants"]["near"]["weight"] = near
        ingress["user_config"]["variants"]["far"]["weight"] = far
        self.deploy()

    def answer(self, **fields: Any) -> tuple[str, float]:
        """The text of a fixed request, and how many tokens were drafted in a round."""
        body = {"model": "pocket", "prompt": PROMPT, "max_tokens": 64, "temperature": 0, **fields}
        response = httpx.post(f"{self.url}/v1/completions", json=body, timeout=TIMEOUT_S)
        assert response.status_code == httpx.codes.OK, response.text
        answered = response.json()
        done = answered["metrics"]["speculative_decoding"]
        return str(answered["choices"][0]["text"]), done["num_draft_tokens"] / max(1, done["num_spec_steps"])

    def replicas(self) -> set[str]:
        """Every replica of the application by name: one that restarts has another."""
        found = httpx.get(
            f"{self.cluster.dashboard}/api/serve/applications/",
            timeout=TIMEOUT_S,
            headers={"Authorization": f"Bearer {self.cluster.run('ray', 'get-auth-token').stdout.strip()}"},
        )
        assert found.status_code == httpx.codes.OK, found.text
        deployments = found.json()["applications"]["outrider"]["deployments"].values()
        return {replica["replica_id"] for one in deployments for replica in one["replicas"]}

    def runs_with(self, num_replicas: int) -> bool:
        """Whether it has so many replicas and they run."""
        return len(self.replicas()) == num_replicas and "status: RUNNING" in self.status()

    def status(self) -> str:
        return self.cluster.run("serve", "status", "--address", self.cluster.dashboard).stdout


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"no {what} within {TIMEOUT_S} s"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("variants")
    with ray_cluster(folder, head_cpus=4) as cluster:
        (port,) = free_ports(1)
        made = Deployed(cluster, folder, port)
        wait_for(made.is_ready, "answer from /ready")
        wait_for(lambda: made.answer()[1] > 0, "drafted token")
        yield made


def stream(deployed: Deployed) -> str:
    """A long answer, token by token; raises if anything is missing."""
    body = {"model": "pocket", "prompt": PROMPT, "max_tokens": 800, "temperature": 0.8, "seed": 11, "stream": True}
    body["ignore_eos"] = True
    text = ""
    with httpx.stream("POST", f"{deployed.url}/v1/completions", json=body, timeout=TIMEOUT_S) as response:
        for line in response.iter_lines():
            if line == "data: [DONE]":
                return text
            if line.startswith("data: {"):
                event = yaml.safe_load(line.removeprefix("data: "))
                assert "error" not in event, event
                text += event["choices"][0]["text"]
    raise AssertionError("a stream has ended in its midst")


@contextmanager
def streaming(deployed: Deployed) -> Iterator[list[str]]:
    """One stream after the other for the length of the block, so that whatever happens falls into one; their texts."""
    texts: list[str] = []
    is_over = threading.Event()

    def go_on() -> None:
        while not is_over.is_set():
            try:
                texts.append(stream(deployed))
            except Exception as error:
                texts.append(repr(error))

    reader = threading.Thread(target=go_on)
    reader.start()
    try:
        wait_for(lambda: texts, "stream")
        yield texts
    finally:
        is_over.set()
        reader.join(TIMEOUT_S)


def test_new_weights_take_effect_while_a_stream_goes_on(deployed: Deployed) -> None:
    text, drafted = deployed.answer()
    assert drafted == 1.0, "everybody is near"
    assert deployed.answer(speculation={"variant": "far"})[0] == text
    before = deployed.replicas()
    expected = stream(deployed)
    with streaming(deployed) as texts:
        deployed.set_weights(near=0, far=1)
        wait_for(lambda: deployed.answer()[1] > 2.0, "request on the new variant")
        assert deployed.answer()[0] == text, "a variant changes no text"
    assert len(texts) >= 2, "one before the change, and the one that it fell into"
    assert set(texts) == {expected}
    assert deployed.replicas() == before, "nothing has restarted"
    metrics = httpx.get(f"{deployed.url}/metrics", timeout=TIMEOUT_S).text
    for variant in ("near", "far"):
        lines = [one for one in metrics.splitlines() if one.startswith("outrider_spec_decode_num_drafts_total")]
        assert any(f'variant="{variant}"' in one and float(one.rpartition(" ")[2]) > 0 for one in lines), lines
    top = deployed.cluster.run("outrider", "top", "--url", deployed.url, "--once", "--interval-s", "0.5").stdout
    assert "variant far" in top


def test_a_split_that_does_not_fit_is_refused_and_the_old_one_goes_on(deployed: Deployed) -> None:
    before = deployed.replicas()
    (ingress,) = deployed.fields["applications"][0]["deployments"]
    good = yaml.safe_load(yaml.safe_dump(ingress["user_config"]))
    ingress["user_config"]["variants"]["far"]["num_speculative_tokens"] = 99
    deployed.deploy()
    wait_for(lambda: "is over max_speculative_tokens 16" in deployed.status(), "refusal in `serve status`")
    ingress["user_config"] = good
    deployed.deploy()
    wait_for(lambda: "status: RUNNING" in deployed.status(), "return to a good split")
    assert deployed.answer()[0]
    assert before & deployed.replicas(), "verifiers and drafters have nothing to do with it"


def test_one_more_verifier_and_one_less_restart_nobody_while_a_stream_goes_on(deployed: Deployed) -> None:
    before = deployed.replicas()
    expected = stream(deployed)
    with streaming(deployed) as texts:
        for number in (2, 1):
            deployed.fields = deployed.configured(verifier={"num_replicas": number})
            deployed.deploy()
            wait_for(partial(deployed.runs_with, len(before) + number - 1), f"{number} verifiers")
            # Of two verifiers either may be the one to go.
            assert len(before - deployed.replicas()) <= 2 - number, "others have restarted"
    assert set(texts) == {expected}
