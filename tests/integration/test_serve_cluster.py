"""The application on a real Ray cluster: answers, a killed drafter, `serve deploy`, leases, drain, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.serve_process import BIN, Server, is_alive, processes_below, quiet_environment, start_server
from tests.support.tiny_checkpoint import tiny_settings

TIMEOUT_S = 300.0
DRAFTED = {"num_speculative_tokens": 4}
"""Left to itself the router would soon stop asking a drafter of random weights."""


def complete(server: Server, **fields: Any) -> dict[str, Any]:
    """One answer, with what speculation did for it."""
    messages = [{"role": "user", "content": "the contract names the parties"}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 24, "temperature": 0.8, "seed": 7, **fields}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=TIMEOUT_S)
    assert response.status_code == httpx.codes.OK, response.text
    answer = response.json()
    assert isinstance(answer, dict)
    return answer


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def drafted_tokens(answer: dict[str, Any]) -> int:
    return int(answer["metrics"]["speculative_decoding"]["num_draft_tokens"])


def wait_for(condition: Callable[[], Any], what: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"no {what} within {TIMEOUT_S} s"
        time.sleep(0.3)


def test_what_the_command_says(server: Server) -> None:
    assert f"http://127.0.0.1:{server.port}/v1" in server.log
    assert f"http://127.0.0.1:{server.dashboard_port}" in server.log
    assert httpx.get(f"http://127.0.0.1:{server.dashboard_port}/", timeout=TIMEOUT_S).status_code == httpx.codes.OK


def test_drafter_and_verifier_are_processes_of_their_own_and_change_no_text(server: Server) -> None:
    drafted = complete(server, speculation=DRAFTED)
    plain = complete(server, speculation={"num_speculative_tokens": 0})
    assert drafted_tokens(drafted) > 0
    assert text_of(drafted) == text_of(plain) != ""
    assert len(server.replicas("drafter")) == len(server.replicas("verifier")) == 1


def test_it_is_haproxy_that_listens(server: Server) -> None:
    entries = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = {e[9] for e in entries if e[1].endswith(f":{server.port:04X}") and e[3] == "0A"}
    owners = set()
    for pid, line in processes_below(server.process.pid).items():
        descriptors = Path(f"/proc/{pid}/fd").iterdir()
        if f"socket:[{inode}]" in {os.readlink(descriptor) for descriptor in descriptors if descriptor.is_symlink()}:
            owners.add(Path(line.split(" ")[0]).name)
    assert owners == {"haproxy"}


def test_every_response_has_one_request_id(server: Server) -> None:
    for headers in ({}, {"x-request-id": "mine-1"}):
        response = httpx.get(f"{server.url}/v1/models", headers=headers, timeout=TIMEOUT_S)
        (request_id,) = response.headers.get_list("x-request-id")
        assert request_id == headers.get("x-request-id", request_id) != ""


def test_a_stream_comes_token_by_token(server: Server) -> None:
    body = {"model": "tiny", "prompt": "the contract", "max_tokens": 24, "seed": 7, "stream": True}
    events = []
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=TIMEOUT_S) as response:
        for line in response.iter_lines():
            if line:
                events.append(line)
    assert events[-1] == "data: [DONE]"
    assert len(events) > 3


def test_a_killed_drafter_costs_no_text_and_is_replaced(server: Server) -> None:
    expected = text_of(complete(server))
    (victim,) = server.replicas("drafter")
    os.kill(victim, signal.SIGKILL)
    assert text_of(complete(server)) == expected
    wait_for(lambda: server.replicas("drafter") - {victim}, "new drafter")
    wait_for(lambda: drafted_tokens(complete(server, speculation=DRAFTED)) > 0, "proposal of the new drafter")
    assert text_of(complete(server)) == expected


def test_leases_over_a_cluster(server: Server) -> None:
    drill = subprocess.run(
        [sys.executable, "-m", "tests.support.lease_drill", server.ray_address],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=quiet_environment(),
        check=False,
    )
    assert drill.returncode == 0, drill.stderr[-4000:]
    seen = json.loads(drill.stdout.splitlines()[-1])
    assert all(seen["named_calls"])
    assert seen["kept"]
    assert seen["link_to_rest"]
    assert seen["link_loss_s"] < 5
    assert seen["drain_s"] < 60  # the replica would wait 120 s for a lease that nobody gives back
    assert seen["closing_s"] < 5


def test_the_printed_configuration_deploys_and_answers_the_same(server: Server) -> None:
    expected = text_of(complete(server))
    settings = yaml.safe_load((server.folder / "config.yaml").read_text())
    settings["ingress"] = {"port": server.port}
    settings["speculation"] = {"policy": "constant", "num_speculative_tokens": 2}
    (server.folder / "two.yaml").write_text(yaml.safe_dump(settings))
    printed = subprocess.run([BIN / "outrider", "config", server.folder / "two.yaml"], capture_output=True, check=True)
    (server.folder / "serve.yaml").write_bytes(printed.stdout)
    before = server.replicas("")
    address = f"http://127.0.0.1:{server.dashboard_port}"
    subprocess.run(
        [BIN / "serve", "deploy", server.folder / "serve.yaml", "--address", address],
        capture_output=True,
        check=True,
        timeout=TIMEOUT_S,
        env=quiet_environment(),
    )
    wait_for(lambda: len(server.replicas("") - before) >= 4, "new replicas")

    def looks_two_ahead() -> bool:
        response = httpx.get(f"{server.url}/ready", timeout=TIMEOUT_S)
        if response.status_code != httpx.codes.OK:
            return False
        steps = complete(server)["metrics"]["speculative_decoding"]
        return 0 < steps["num_draft_tokens"] <= 2 * steps["num_spec_steps"]

    wait_for(looks_two_ahead, "answer of the new configuration")
    assert text_of(complete(server)) == expected


@pytest.mark.system
def test_ctrl_c_and_sigterm_stop_everything_and_it_starts_again(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    for number in (signal.SIGINT, signal.SIGTERM):
        server = start_server(tmp_path, settings)
        assert drafted_tokens(complete(server, speculation=DRAFTED)) > 0
        below = processes_below(server.process.pid)
        assert any("gcs_server" in line for line in below.values())
        assert server.stop(number) == 0, server.log
        assert not [line for pid, line in below.items() if is_alive(pid)]


@pytest.mark.system
def test_a_replica_that_cannot_start_ends_the_command_with_its_reason(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path)
    bound = {"verifier": {"max_memory_bytes": 1000}}  # that this is too little is known once the weights are loaded
    with pytest.raises(AssertionError, match=r"the verifier cannot start: .*verifier\.max_memory_bytes"):
        start_server(tmp_path, {**settings, **bound})
