"""A port that HAProxy was to have is taken before it starts: the real one, on a real cluster, gets others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cluster.ports import free_ports
from tests.support.serve_process import START_TIMEOUT_S, quiet_environment

pytestmark = pytest.mark.system

TAKEN = """
import os, socket, sys
from cluster.front import Front
from deployments.cli import serve
from deployments.cli.main import main

chosen, listeners, opened = [], [], Front.open

def open_and_lose(front, longest_request_s):
    opened(front, longest_request_s)
    chosen.append(int(os.environ["RAY_SERVE_HAPROXY_STATS_PORT"]))
    if len(chosen) <= int(sys.argv[1]):
        listeners.append(socket.create_server(("", chosen[-1])))

Front.open = open_and_lose
serve._deploy = lambda config, stopping, deadline_s, hosts: stopping.set()
status = main(["serve", "--port", sys.argv[2], "--dashboard-port", sys.argv[3]])
print("ports", *chosen, "status", status)
"""


def served(num_taken: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TAKEN, str(num_taken), *map(str, free_ports(2))]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_TIMEOUT_S, env=quiet_environment())


def test_haproxy_starts_on_other_ports() -> None:
    done = served(1)
    assert "cannot bind socket" in done.stdout, done.stdout + done.stderr
    assert "trying again" in done.stdout
    ports = done.stdout.splitlines()[-1].split()
    assert ports[-2:] == ["status", "0"], done.stdout + done.stderr
    assert len(set(ports[1:-2])) == 2


def test_where_there_are_none_a_sentence_says_so() -> None:
    done = served(9)
    assert done.stdout.splitlines()[-1].endswith("status 1"), done.stdout + done.stderr
    first = done.stderr.splitlines()[0]
    assert first.startswith("outrider serve: Serve does not start: HAProxy ends:")
    assert "cannot bind socket" in first
    assert "Traceback" not in done.stderr
