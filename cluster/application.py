"""One Serve application on the cluster that this process is connected to."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

_REMOVAL_POLL_S = 0.3


class Occupied(RuntimeError):
    """The cluster serves something where the application would go."""


class ServeFailed(RuntimeError):
    """Serve itself did not come up; the text says why."""


def start_serve(*, host: str, port: int, on_every_node: bool = False) -> None:
    """Start Serve's controller and its proxies, the head's alone or one on each node with replicas.

    Raises ServeFailed.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # of this process; the cluster's own logs stay
    options: dict[str, Any] = {"host": host, "port": port}
    try:
        serve.start(
            proxy_location="EveryNode" if on_every_node else "HeadOnly",
            http_options=options,
            logging_config={"log_level": "WARNING"},
        )
    except Exception as error:  # of a proxy's process, with its traceback as text, or Ray's own about it
        raise ServeFailed(f"Serve does not start: {_alert_in(str(error)) or reason_in(str(error))}") from error


def _alert_in(message: str) -> str | None:
    """What kept HAProxy from its start, where that is what the message is about."""
    found = re.search(r"^\[ALERT\]\s*(?:\(\d+\) : )?(.*)$", message, flags=re.MULTILINE)
    return f"HAProxy ends: {found[1]}" if found else None


def deploy(application: Any, name: str) -> None:
    """Deploy an application at / and return at once; `problem_of` and `is_running` tell how it goes."""
    from ray import serve

    target = serve.RunTarget(target=application, name=name, route_prefix="/")
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def deploy_config(fields: dict[str, Any]) -> None:
    """Deploy what `serve deploy` would, and return at once; Occupied where that would take other applications away."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    config = ServeDeploySchema.model_validate(fields)
    if others := serve.status().applications.keys() - {application.name for application in config.applications}:
        raise Occupied(
            f"Serve knows an application's policy from a configuration of all applications only, and {sorted(others)} "
            "would not be in it; add this one to theirs (`outrider config` prints it) and use `serve deploy`"
        )
    client = _get_global_client()
    assert client is not None
    client.deploy_apps(config)


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


def check_room(name: str, *, host: str, port: int) -> bool:
    """Raise Occupied if the application has no place on this cluster; returns whether Serve runs here already.

    A cluster has one Serve, whose proxies listen where they were told to at its start.
    """
    from ray import serve
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return False
    if name in serve.status().applications:
        raise Occupied(
            f"the cluster serves an application {name!r} already; change it with `serve deploy`, or remove it with "
            "`serve shutdown`"
        )
    listening = client.http_config
    if (listening.host, listening.port) != (host, port):
        raise Occupied(
            f"Serve listens on {listening.host}:{listening.port} on this cluster, not on {host}:{port}; set "
            "ingress.host and ingress.port (--port) to these"
        )
    return True


def proxy_addresses() -> list[str]:
    """The addresses of the nodes with a proxy that listens."""
    import ray
    from ray import serve

    addresses = {node["NodeID"]: str(node["NodeManagerAddress"]) for node in ray.nodes()}  # type: ignore[no-untyped-call]
    healthy = [node_id for node_id, status in serve.status().proxies.items() if status == "HEALTHY"]
    return sorted({addresses[node_id] for node_id in healthy if node_id in addresses})


def remove(name: str, *, timeout_s: float) -> bool:
    """Let the application drain and go; False if it has not gone in time. Nothing else on the cluster is touched."""
    from ray import serve
    from ray.serve.context import _get_global_client

    if _get_global_client(raise_if_no_controller_running=False) is None:
        return True
    serve.delete(name, _blocking=False)
    deadline_s = time.monotonic() + timeout_s
    while name in serve.status().applications:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_REMOVAL_POLL_S)
    return True


def stop_serve() -> None:
    """Stop Serve itself, for whoever started it and sees no application left."""
    from ray import serve

    if not serve.status().applications:
        serve.shutdown()  # type: ignore[no-untyped-call]
