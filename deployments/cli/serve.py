"""`outrider serve`: the whole application until Ctrl-C, on a local Ray cluster or on a running one (--address)."""

from __future__ import annotations

import argparse
import http.client
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from cluster import application, local, nodes
from deployments.checks.checkpoints import DOWNLOAD, Unusable, check_whole
from deployments.cli.arguments import above_zero, port
from deployments.cli.config_cmd import to_serve_config
from deployments.config import ConfigError, OutriderConfig, load
from deployments.ingress.tenants import KeyRing, read_tenants
from deployments.roles import roles_of

_DASHBOARD_PORT = 8265
_START_TIMEOUT_S = 300.0
_POLL_S = 0.2
_START_ATTEMPTS = 2
_LOGS = "/tmp/ray/session_latest/logs/serve/"


class StartFailed(RuntimeError):
    """The application did not come up; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration; by default the pocket models")
    parser.add_argument("--port", type=port, help="port of the endpoint (default 8000)")
    parser.add_argument("--dashboard-port", type=port, default=_DASHBOARD_PORT, help="port of Ray's dashboard")
    parser.add_argument(
        "--address", help="deploy on the Ray cluster that this machine is part of (host:port, or auto), and start none"
    )
    parser.add_argument(
        "--start-timeout-s", type=above_zero, default=_START_TIMEOUT_S, help="how long to wait until it answers"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    try:
        config = load(args.config)
        if args.port is not None:
            config = config.with_changes(ingress={"port": args.port})
        resolved = config.resolve()
        if args.address is None:
            _check_ports(args.dashboard_port, config)
            _check_keys(config)
            _check_models(resolved)
    except (ConfigError, OSError) as error:
        return _fail(error)
    stopping = threading.Event()
    _stop_on_signals(stopping)
    deadline_s = time.monotonic() + args.start_timeout_s
    try:
        if args.address is not None:
            _serve_on(args.address, config, stopping, deadline_s)
        else:
            _serve_here(args.dashboard_port, config, stopping, deadline_s)
    except (nodes.NoCluster, local.PortTaken, application.Occupied) as error:
        return _fail(error)
    except (StartFailed, local.ClusterFailed, application.ServeFailed) as error:
        _fail(error)
        where = _LOGS if args.address is None else f"{_LOGS} of the cluster's nodes"
        print(f"  the whole story is in {where}", file=sys.stderr, flush=True)
        return 1
    return 0


def _stop_on_signals(stopping: threading.Event) -> None:
    """To be said again whenever Ray has been started or joined: it takes SIGTERM over, and leaves at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():  # the second time means now
            raise KeyboardInterrupt
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _check_ports(dashboard_port: int, config: OutriderConfig) -> None:
    if dashboard_port == config.ingress.port:
        raise local.PortTaken(f"port {dashboard_port} cannot be both --port's and --dashboard-port's; change one")
    local.check_ports(config.ingress.host, {"--port (make serve PORT=...)": config.ingress.port})
    local.check_ports("127.0.0.1", {"--dashboard-port (make serve DASHBOARD_PORT=...)": dashboard_port})


def _check_keys(config: OutriderConfig) -> None:
    """Before any model is loaded for nothing; ConfigError if the ingress could not begin with this file."""
    ingress = config.ingress
    if ingress.keys_file is not None:
        try:
            KeyRing(read_tenants(Path(ingress.keys_file)), ingress.num_replicas)
        except (OSError, ValueError) as error:
            raise ConfigError(f"ingress.keys_file: {error}; `outrider keys new` writes one") from error


def _check_models(resolved: OutriderConfig) -> None:
    """A download that was cut off is told by the library without the file's name, and after a minute."""
    model, kinds = resolved.model, resolved.drafter_kinds
    sources = {
        "model_source": model.model_source,
        "assistant_source": model.assistant_source if "mtp" in kinds else None,
        "draft_model_source": model.draft_model_source if "draft_model" in kinds else None,
    }
    for name, folder in sources.items():
        if folder is not None:
            try:
                check_whole(Path(folder))
            except Unusable as error:
                raise ConfigError(f"model.{name}: {error}; {DOWNLOAD}") from None


def _start_here(dashboard_port: int, config: OutriderConfig, stopping: threading.Event) -> None:
    """Ray and Serve; once more from scratch where Serve fails: its HAProxy's ports are chosen before they are used."""
    for attempt in range(1, _START_ATTEMPTS + 1):
        local.start(dashboard_port=dashboard_port, longest_request_s=config.ingress.max_request_s)
        _stop_on_signals(stopping)
        if stopping.is_set():
            return
        try:
            application.start_serve(host=config.ingress.host, port=config.ingress.port)
            return
        except application.ServeFailed as error:
            if attempt == _START_ATTEMPTS or stopping.is_set():
                raise
            _say(f"{error}; trying again")
        local.stop()
        _check_ports(dashboard_port, config)


def _serve_here(dashboard_port: int, config: OutriderConfig, stopping: threading.Event, deadline_s: float) -> None:
    begun_s = time.monotonic()
    try:
        _say("starting a local Ray cluster")
        _start_here(dashboard_port, config, stopping)
        if not stopping.is_set():
            _deploy(config, stopping, deadline_s, lambda: [config.ingress.host])
        if not stopping.is_set():
            _greet(config, [config.ingress.host], time.monotonic() - begun_s)
            _say_dashboard(dashboard_port)
            _say("Ctrl-C stops everything.")
        stopping.wait()
    finally:
        try:
            _say("stopping")
        finally:  # a second signal may come at any time, and stops no stop
            local.stop()


def _serve_on(address: str, config: OutriderConfig, stopping: threading.Event, deadline_s: float) -> None:
    """Deploy on a running cluster, and take away what was deployed, no more, at the end."""
    from deployments.app import APP_NAME

    begun_s = time.monotonic()
    _say(f"joining the Ray cluster at {address}")
    with nodes.connected(address):
        _stop_on_signals(stopping)
        has_serve = application.check_room(APP_NAME, host=config.ingress.host, port=config.ingress.port)
        try:
            application.start_serve(host=config.ingress.host, port=config.ingress.port, on_every_node=True)
            _deploy(config, stopping, deadline_s, lambda: _hosts(config))
            if not stopping.is_set():
                _greet(config, _hosts(config), time.monotonic() - begun_s)
                _say("Ctrl-C removes the application; the cluster stays.")
            stopping.wait()
        finally:
            _say("removing the application")
            longest_s = max(role.drain_s for role in roles_of(config).values())
            if not application.remove(APP_NAME, timeout_s=longest_s + 30):
                _say("it has not drained in time; `serve status` on the cluster tells what is left")
            elif not has_serve:
                application.stop_serve()


def _hosts(config: OutriderConfig) -> list[str]:
    """Where a client on this machine may reach a proxy: on every node that has one, if proxies listen beyond it."""
    if config.ingress.host in ("127.0.0.1", "localhost"):
        return [config.ingress.host]
    return application.proxy_addresses()


def _deploy(
    config: OutriderConfig, stopping: threading.Event, deadline_s: float, hosts: Callable[[], list[str]]
) -> None:
    """Deploy, and return once the endpoint answers; StartFailed with the reason of the first replica that cannot."""
    from deployments.app import APP_NAME, build

    _say(f"loading {config.model.model_id}: {', '.join(roles_of(config))}")
    if config.autoscaling.enabled:
        application.deploy_config(to_serve_config(config))
    else:
        application.deploy(build(config.model_dump(mode="json")), APP_NAME)
    while not stopping.is_set():
        if (problem := application.problem_of(APP_NAME)) is not None:
            raise StartFailed(problem)
        if application.is_running(APP_NAME) and any(_is_ready(host, config.ingress.port) for host in hosts()):
            return
        if time.monotonic() > deadline_s:
            raise StartFailed(f"not ready in time; so far:\n{application.describe(APP_NAME)}")
        stopping.wait(_POLL_S)


def _is_ready(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _greet(config: OutriderConfig, hosts: list[str], start_s: float) -> None:
    bases = [f"http://{host}:{config.ingress.port}" for host in hosts]
    others = f"\n              and at {', '.join(bases[1:])}" if len(bases) > 1 else ""
    _say(
        f"""ready after {start_s:.0f} s

  endpoint    {bases[0]}/v1{others}
  page        {bases[0]}/

  curl {bases[0]}/v1/chat/completions -H 'content-type: application/json' -d '{{
    "model": "{config.model.model_id}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
"""
    )
    for role, hardware in config.paced.items():
        _say(f"the {role} is paced: real tokens at the speed of a cost table, {hardware}")


def _say_dashboard(dashboard_port: int) -> None:
    print(
        f"""  dashboard   http://127.0.0.1:{dashboard_port}   (asks for the token that `ray get-auth-token` prints;
              `ray` and `serve` commands take it with RAY_AUTH_MODE=token)
""",
        flush=True,
    )


def _say(text: str) -> None:
    print(f"outrider: {text}", flush=True)


def _fail(error: Exception) -> int:
    print(f"outrider serve: {error}", file=sys.stderr, flush=True)
    return 1
