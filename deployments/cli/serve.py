"""`outrider serve`: a local Ray cluster with the whole application on it, until Ctrl-C."""

from __future__ import annotations

import argparse
import http.client
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from cluster import local
from deployments.config import ConfigError, OutriderConfig, load

_DASHBOARD_PORT = 8265
_START_TIMEOUT_S = 300.0
_POLL_S = 0.2


class StartFailed(RuntimeError):
    """The application did not come up; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration; by default the pocket models")
    parser.add_argument("--port", type=_port, help="port of the endpoint (default 8000)")
    parser.add_argument("--dashboard-port", type=_port, default=_DASHBOARD_PORT, help="port of Ray's dashboard")
    parser.add_argument(
        "--start-timeout-s", type=float, default=_START_TIMEOUT_S, help="how long to wait until it answers"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    stopping = threading.Event()
    try:
        config = load(args.config)
        if args.port is not None:
            config = config.with_changes(ingress={"port": args.port})
        config.resolve()
        ingress = config.ingress
        local.check_ports(ingress.host, {"--port (make serve PORT=...)": ingress.port})
        local.check_ports("127.0.0.1", {"--dashboard-port (make serve DASHBOARD_PORT=...)": args.dashboard_port})
    except (ConfigError, OSError) as error:
        return _fail(error)

    def stop(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():  # the second time means now
            raise KeyboardInterrupt
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    begun_s = time.monotonic()
    try:
        _say("starting a local Ray cluster")
        local.start(dashboard_port=args.dashboard_port)
        _deploy(config, stopping, begun_s + args.start_timeout_s)
        if not stopping.is_set():
            _greet(config, args.dashboard_port, time.monotonic() - begun_s)
        stopping.wait()
    except (StartFailed, local.ClusterFailed) as error:
        _fail(error)
        print("  the whole story is in /tmp/ray/session_latest/logs/serve/", file=sys.stderr, flush=True)
        return 1
    finally:
        _say("stopping")
        local.stop()
    return 0


def _deploy(config: OutriderConfig, stopping: threading.Event, deadline_s: float) -> None:
    """Deploy, and return once the endpoint answers; StartFailed with the reason of the first replica that cannot."""
    from deployments.app import APP_NAME, build

    roles = ("ingress", "router", "verifier", *(f"{kind} drafter" for kind in config.drafter_roles))
    _say(f"loading {config.model.model_id}: " + ", ".join(roles))
    local.start_serve(host=config.ingress.host, port=config.ingress.port)
    local.deploy(build(config.model_dump(mode="json")), APP_NAME)
    while not stopping.is_set():
        if (problem := local.problem_of(APP_NAME)) is not None:
            raise StartFailed(problem)
        if local.is_running(APP_NAME) and _is_ready(config):
            return
        if time.monotonic() > deadline_s:
            raise StartFailed(f"not ready in time; so far:\n{local.describe(APP_NAME)}")
        stopping.wait(_POLL_S)


def _is_ready(config: OutriderConfig) -> bool:
    connection = http.client.HTTPConnection(config.ingress.host, config.ingress.port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def _greet(config: OutriderConfig, dashboard_port: int, start_s: float) -> None:
    base = f"http://{config.ingress.host}:{config.ingress.port}"
    _say(
        f"""ready after {start_s:.0f} s

  endpoint    {base}/v1
  page        {base}/
  dashboard   http://127.0.0.1:{dashboard_port}   (asks for the token that `ray get-auth-token` prints;
              `ray` and `serve` commands take it with RAY_AUTH_MODE=token)

  curl {base}/v1/chat/completions -H 'content-type: application/json' -d '{{
    "model": "{config.model.model_id}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

Ctrl-C stops everything."""
    )


def _say(text: str) -> None:
    print(f"outrider: {text}", flush=True)


def _fail(error: Exception) -> int:
    print(f"outrider serve: {error}", file=sys.stderr, flush=True)
    return 1


def _port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"{port} is no port; choose one from 1 to 65535")
    return port
