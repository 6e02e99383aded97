"""Ports for servers that start in a moment: free, different, and out of the way of what else opens ports."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import ports
from cluster.ports import free_block, free_ports


def test_a_port_is_never_given_twice_in_a_process() -> None:
    seen = [port for _ in range(100) for port in free_ports(3)]
    assert len(set(seen)) == 300


def test_a_taken_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = free_ports(3)
    monkeypatch.setattr(ports, "_FREE", [one, two, three])
    with socket.create_server(("127.0.0.2", two)):
        assert set(free_ports(2)) == {one, three}
        with pytest.raises(OSError, match=f"fewer than 3 ports from {one} to {three} are free"):
            free_ports(3)


def test_rays_workers_have_others() -> None:
    """Those that Ray itself names where a port is given twice."""
    (port,) = free_ports(1)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}"]
    command += [f"--dashboard-agent-listen-port={port}", "--disable-usage-stats"]
    refused = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"RAY_AUTH_MODE": "disabled"}
    )
    match = re.search(r"'worker_ports': '\d+ ports from \d+ to (\d+)'", refused.stderr)
    assert match is not None, refused.stderr[-2000:]
    assert int(match[1]) < min(ports._FREE)


def test_a_block_is_free_throughout() -> None:
    pool = free_block(ports._FREE, 4)
    first = pool[0]
    with socket.create_server(("127.0.0.1", first + 1)):
        assert {free_block(pool, 2) for _ in range(8)} == {range(first + 2, first + 4)}
