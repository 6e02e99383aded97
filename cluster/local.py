"""A Ray cluster on this machine alone: started, served on and stopped by one process."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import time
from typing import Any

from cluster.processes import processes, processes_below

OBJECT_STORE_BYTES = 256 << 20
"""Tokens and deltas travel on streams; the object store only carries Serve's own calls."""


_LINGER_S = 3.0
_START_ATTEMPTS = 3

logger = logging.getLogger(__name__)


class ClusterFailed(RuntimeError):
    """The cluster did not come up."""


class PortTaken(OSError):
    """Something else listens on a port that is needed."""


def check_ports(host: str, ports: dict[str, int]) -> None:
    """Raise PortTaken unless every port can be listened on; keys say where a port comes from (a flag, say)."""
    for origin, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do; TIME_WAIT is no obstacle
            try:
                probe.bind((host, port))
            except OSError as error:
                reason = error.strerror or str(error)
                raise PortTaken(
                    f"port {port} on {host} cannot be used ({reason}); choose another one with {origin}"
                ) from None


def start(*, dashboard_port: int, num_cpus: int | None = None) -> None:
    """Start Ray here, with its dashboard on 127.0.0.1; quiet, and without reporting usage anywhere."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's own ports are open on every interface: its token keeps others out (said aloud, so that Ray does not warn).
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray would run every replica at niceness 15, behind whatever else this machine does.
    os.environ.setdefault("RAY_worker_niceness", "0")
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
            stop()
            if attempt == _START_ATTEMPTS:
                raise ClusterFailed(f"Ray does not start: {error}") from error
            logger.warning("Ray did not start (%s); trying again", error)


def start_serve(*, host: str, port: int) -> None:
    """Start Serve's controller and its proxy on this machine."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # of this process; the cluster's own logs stay
    options: dict[str, Any] = {"host": host, "port": port}
    serve.start(proxy_location="HeadOnly", http_options=options, logging_config={"log_level": "WARNING"})


def stop() -> None:
    """Stop the cluster at once; returns when every process below this one is gone. Safe to call at any time."""
    import ray

    below = processes_below(os.getpid())
    # Not serve.shutdown(): it drains replica by replica for seconds, and nobody waits for a local cluster's drain.
    ray.shutdown()
    deadline_s = time.monotonic() + _LINGER_S
    while (left := below & processes()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    for process in left:  # helpers of Ray's dashboard, now and then
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def deploy(application: Any, name: str) -> None:
    """Deploy an application at / and return at once; `problem_of` and `is_running` tell how it goes."""
    from ray import serve

    target = serve.RunTarget(target=application, name=name, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def is_running(name: str) -> bool:
    """Whether all the application's deployments have their replicas."""
    from ray import serve

    status = serve.status().applications.get(name)
    return status is not None and status.status == "RUNNING"


def problem_of(name: str) -> str | None:
    """Why the application cannot come up, as the first replica that failed tells it; None while it still may."""
    from ray import serve

    status = serve.status().applications.get(name)
    if status is None:
        return None
    for deployment, state in status.deployments.items():
        if "failed to start" in state.message.lower() or state.status in ("UNHEALTHY", "DEPLOY_FAILED"):
            return f"the {deployment} cannot start: {reason_in(state.message)}"
    if status.status == "DEPLOY_FAILED":
        return reason_in(status.message)
    return None


def reason_in(message: str) -> str:
    """The error at the end of a message with tracebacks, or the message itself."""
    lines = message.strip().splitlines()
    for number in range(len(lines) - 1, 0, -1):
        if re.match(r"[A-Za-z_][\w.]*(: |$)", lines[number]):
            return "\n".join(lines[number:])
    return message.strip()


def describe(name: str) -> str:
    """One line per deployment, for whoever waits."""
    from ray import serve

    status = serve.status().applications.get(name)
    if status is None:
        return "nothing is deployed"
    return "\n".join(f"  {name}: {d.status.value} {d.message}" for name, d in status.deployments.items())
