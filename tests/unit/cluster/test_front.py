"""What the cluster's HAProxy is told, and that nothing of it stays behind."""

from __future__ import annotations

import importlib.util
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from cluster.front import ENABLE, Front


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENABLE, raising=False)


def variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("RAY_SERVE_")}


def test_a_front_outlives_the_longest_request_and_leaves_nothing() -> None:
    before, front = variables(), Front()
    front.open(longest_request_s=600.5)
    added = {name: value for name, value in variables().items() if name not in before}
    folder = Path(added["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
    assert added[ENABLE] == "1"
    assert float(added["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > 600.5
    assert folder.stat().st_mode & 0o077 == 0, "the administrative socket is open to every user"
    assert len(str(folder)) + len("/" + "0" * 56 + "/metrics.sock") <= 97, "longer than HAProxy takes"
    front.close()
    front.close()
    assert variables() == before
    assert not folder.exists()


def test_two_clusters_share_neither_folders_nor_ports() -> None:
    fronts, seen, listening = [Front(), Front()], [], ExitStack()
    for front in fronts:
        front.open(600.0)
        shared = (ENABLE, "RAY_SERVE_HAPROXY_NBTHREAD", "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S")
        own = {
            n: v
            for n, v in variables().items()
            if n not in shared and "DRAINING" not in n and "DIRECT_INGRESS" not in n
        }
        seen.append(own)
        os.environ.pop(ENABLE)  # as another process would have it
        for name in ("RAY_SERVE_HAPROXY_METRICS_PORT", "RAY_SERVE_HAPROXY_STATS_PORT"):
            listening.enter_context(socket.create_server(("", int(own[name]))))
    assert not set(seen[0].values()) & set(seen[1].values())
    listening.close()
    for front in fronts:
        front.close()


def test_the_ingress_has_ports_on_which_no_other_cluster_listens() -> None:
    for _ in range(4):
        front = Front()
        front.open(600.0)
        names = ("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT")
        first, last = (int(variables()[name]) for name in names)
        front.close()
        assert 30_000 <= first < last <= 31_000
        with socket.create_server(("127.0.0.1", first + 7)):
            front.open(600.0)
            assert int(variables()[names[0]]) != first
            front.close()


@pytest.mark.parametrize("choice", ["0", "1"])
def test_whoever_has_decided_is_left_alone(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENABLE, choice)
    before, front = variables(), Front()
    front.open(600.0)
    assert variables() == before
    front.close()
    assert variables() == before


def test_without_the_binary_serve_keeps_its_own_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    before, front = variables(), Front()
    front.open(600.0)
    assert variables() == before
