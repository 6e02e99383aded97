"""A Ray cluster on this machine alone: started, served on and stopped by one process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time

from cluster.front import Front
from cluster.ports import refusal
from cluster.processes import processes, processes_below

OBJECT_STORE_BYTES = 256 << 20
"""Tokens and deltas travel on streams; the object store only carries Serve's own calls."""


_LINGER_S = 3.0
_START_ATTEMPTS = 3

logger = logging.getLogger(__name__)
_front = Front()


class ClusterFailed(RuntimeError):
    """The cluster did not come up."""


class PortTaken(OSError):
    """Something else listens on a port that is needed."""


def check_ports(host: str, ports: dict[str, int]) -> None:
    """Raise PortTaken unless every port can be listened on; keys say where a port comes from (a flag, say)."""
    for origin, port in ports.items():
        if (error := refusal(host, port)) is not None:
            reason = error.strerror or str(error)
            raise PortTaken(f"port {port} on {host} cannot be used ({reason}); choose another one with {origin}")


def start(*, dashboard_port: int, num_cpus: int | None = None, longest_request_s: float = 600.0) -> None:
    """Start Ray here, with its dashboard on 127.0.0.1; quiet, and without reporting usage anywhere.

    No request may take longer than `longest_request_s` once the ingress's replicas have changed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's own ports are open on every interface: its token keeps others out (said aloud, so that Ray does not warn).
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray would run every replica at niceness 15, behind whatever else this machine does.
    os.environ.setdefault("RAY_worker_niceness", "0")
    _front.open(longest_request_s)
    import ray

    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                dashboard_port=dashboard_port,
                namespace="serve",
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
            return
        except Exception as error:
            # Ray gives its own processes 30 s, which a busy machine exceeds; then it tells so with a bare Exception.
            _stop_ray()
            if attempt == _START_ATTEMPTS:
                _front.close()
                raise ClusterFailed(f"Ray does not start: {error}") from error
            logger.warning("Ray did not start (%s); trying again", error)


def stop() -> None:
    """Stop the cluster at once; returns when every process below this one is gone. Safe to call at any time."""
    try:
        _stop_ray()
    finally:
        _front.close()


def _stop_ray() -> None:
    import ray

    below = processes_below(os.getpid())
    try:
        # Not serve.shutdown(): it drains replica by replica for seconds, and nobody waits for a local cluster's drain.
        ray.shutdown()
        deadline_s = time.monotonic() + _LINGER_S
        while below & processes() and time.monotonic() < deadline_s:
            time.sleep(0.05)
    finally:  # helpers of Ray's dashboard, now and then; everything, when a second Ctrl-C says now
        for process in below & processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
