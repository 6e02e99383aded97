"""`outrider serve` where Serve itself does not start: ports of its HAProxy may be taken after they were chosen."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import application, local, nodes
from cluster.front import ENABLE, Front
from cluster.ports import can_listen, free_ports
from deployments.cli import serve
from deployments.cli.main import main

STATISTICS = "RAY_SERVE_HAPROXY_STATS_PORT"
BOUND = """ray::HAProxyManager.ready() (pid=1)
  File "haproxy.py", line 2107, in _reload_haproxy
    await self._haproxy_start_task
RuntimeError: HAProxy crashed during startup: [NOTICE]   (7) : haproxy version is 2.8.25
[WARNING]  (7) : config : log format ignored.
[ALERT]    (7) : Binding [h.cfg:95] for proxy stats: cannot bind socket (Address already in use) for [0.0.0.0:%d]
[ALERT]    (7) : [haproxy.main()] Some protocols failed to start their listeners! Exiting."""


@dataclass
class Machine:
    """Ray and Serve replaced: a start of Serve fails, as HAProxy would, where its statistics port is taken.

    `takes` is how many of the chosen ports somebody takes before HAProxy does.
    """

    takes: int
    front: Front = field(default_factory=Front)
    listeners: ExitStack = field(default_factory=ExitStack)
    calls: list[str] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)

    def start(self, *, longest_request_s: float, **others: Any) -> None:
        self.calls.append("start")
        self.front.open(longest_request_s)
        self.ports.append(int(os.environ[STATISTICS]))
        if len(self.ports) <= self.takes:
            self.listeners.enter_context(socket.create_server(("", self.ports[-1])))

    def stop(self) -> None:
        self.calls.append("stop")
        self.front.close()

    def start_serve(self, **options: Any) -> None:
        port = int(os.environ[STATISTICS])
        if not can_listen("", port):
            raise RuntimeError(BOUND % port)


def fake_serve(monkeypatch: pytest.MonkeyPatch, start: Callable[..., None]) -> None:
    """Put a `ray` in place that has nothing but Serve's start."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=SimpleNamespace(start=start)))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    monkeypatch.delenv(ENABLE, raising=False)
    machine = Machine(request.param)
    monkeypatch.setattr(local, "start", machine.start)
    monkeypatch.setattr(local, "stop", machine.stop)
    fake_serve(monkeypatch, machine.start_serve)
    monkeypatch.setattr(serve, "_stop_on_signals", lambda stopping: None)
    monkeypatch.setattr(serve, "_deploy", lambda config, stopping, deadline_s, hosts: stopping.set())
    with machine.listeners:
        yield machine
    machine.front.close()


def served() -> int:
    port, dashboard_port = free_ports(2)
    return main(["serve", "--port", str(port), "--dashboard-port", str(dashboard_port)])


@pytest.mark.parametrize("machine", [1], indirect=True)
def test_a_port_taken_in_the_meantime_costs_one_more_start_with_others(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert served() == 0
    assert machine.calls == ["start", "stop", "start", "stop"]
    assert machine.ports[0] != machine.ports[1]
    assert "trying again" in capsys.readouterr().out


@pytest.mark.parametrize("machine", [0], indirect=True)
def test_a_keys_file_that_is_not_there_is_told_before_anything_starts(
    machine: Machine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "outrider.yaml"
    file.write_text("ingress: {keys_file: nope.yaml}")
    port, dashboard_port = free_ports(2)
    given = ["--config", str(file), "--port", str(port), "--dashboard-port", str(dashboard_port)]
    assert main(["serve", *given]) == 1
    assert machine.calls == []
    said = capsys.readouterr().err
    assert "ingress.keys_file" in said
    assert "outrider keys new" in said


@pytest.mark.parametrize("machine", [0], indirect=True)
def test_a_model_that_is_cut_off_is_told_before_anything_starts(
    machine: Machine, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, part in (("m", "target"), ("m-assistant", "assistant")):
        shutil.copytree(Path(str(files("deployments.models"))) / "pocket" / part, tmp_path / name)
    os.truncate(tmp_path / "m-assistant" / "model.safetensors", 100_000)
    file = tmp_path / "outrider.yaml"
    file.write_text("model: {model_source: m}")
    port, dashboard_port = free_ports(2)
    given = ["--config", str(file), "--port", str(port), "--dashboard-port", str(dashboard_port)]
    assert main(["serve", *given]) == 1
    assert machine.calls == []
    said = capsys.readouterr().err
    assert f"model.assistant_source: {tmp_path / 'm-assistant' / 'model.safetensors'} has 100000 bytes" in said
    assert "hf download" in said


@pytest.mark.parametrize("machine", [0], indirect=True)
def test_ctrl_c_while_ray_starts_starts_nothing_else(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[threading.Event] = []

    def start(**options: Any) -> None:
        machine.start(**options)
        events[0].set()

    monkeypatch.setattr(serve, "_stop_on_signals", events.append)
    monkeypatch.setattr(local, "start", start)
    fake_serve(monkeypatch, lambda **options: machine.calls.append("serve"))
    monkeypatch.setattr(serve, "_deploy", lambda *_: machine.calls.append("deploy"))
    assert served() == 0
    assert machine.calls == ["start", "stop"]


@pytest.mark.parametrize("machine", [9], indirect=True)
def test_the_second_failure_is_told_in_a_sentence(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert served() == 1
    assert machine.calls == ["start", "stop", "start", "stop"]
    said = capsys.readouterr().err
    bound = f"cannot bind socket (Address already in use) for [0.0.0.0:{machine.ports[1]}]"
    told = f"Binding [h.cfg:95] for proxy stats: {bound}"
    assert said.splitlines()[0] == f"outrider serve: Serve does not start: HAProxy ends: {told}"
    assert "File" not in said


@pytest.mark.parametrize("machine", [1], indirect=True)
def test_an_endpoints_own_port_that_is_taken_meanwhile_is_told(
    machine: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, dashboard_port = free_ports(2)
    stop = machine.stop

    def stop_and_lose() -> None:
        stop()
        if machine.calls == ["start", "stop"]:
            machine.listeners.enter_context(socket.create_server(("127.0.0.1", port)))

    monkeypatch.setattr(local, "stop", stop_and_lose)
    assert main(["serve", "--port", str(port), "--dashboard-port", str(dashboard_port)]) == 1
    said = capsys.readouterr().err
    assert f"port {port}" in said
    assert "--port" in said


def test_on_a_running_cluster_a_serve_that_does_not_start_is_taken_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failed(**options: Any) -> None:
        raise application.ServeFailed("Serve does not start: no room")

    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "deployments.app", SimpleNamespace(APP_NAME="outrider"))
    monkeypatch.setattr(serve, "_stop_on_signals", lambda stopping: None)
    monkeypatch.setattr(nodes, "connected", lambda address: nullcontext())
    monkeypatch.setattr(application, "check_room", lambda name, host, port: False)
    monkeypatch.setattr(application, "start_serve", failed)
    monkeypatch.setattr(application, "remove", lambda name, timeout_s: not calls.append("remove"))
    monkeypatch.setattr(application, "stop_serve", lambda: calls.append("stop"))
    assert main(["serve", "--address", "10.0.0.1:6379"]) == 1
    assert calls == ["remove", "stop"]
    assert capsys.readouterr().err.startswith("outrider serve: Serve does not start: no room\n")


def test_whatever_keeps_serve_from_starting_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed_out(**options: Any) -> None:
        raise TimeoutError("HTTP proxies not available after 60s.")

    fake_serve(monkeypatch, timed_out)
    with pytest.raises(
        application.ServeFailed, match=r"^Serve does not start: HTTP proxies not available after 60s\.$"
    ):
        application.start_serve(host="127.0.0.1", port=1)
