"""A drill on a running Ray cluster: this process leases and links to real Serve replicas, which then die and drain.

Run as a program; prints what it saw as one JSON object. Ray stays out of the test process, whose
warnings are errors.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import serve

from cluster.discovery import Lessors, own_name, request_router_config
from deployments.config import StreamsConfig
from deployments.link import Identity, Link
from deployments.messages import Message
from deployments.peers import Member, PeerSet
from deployments.replica import ServedReplica, follow

APP = "lease-drill"
GUEST = Identity("drill", "router")
DRAIN_TIMEOUT_S = 120.0
"""Far beyond what a drain takes once the lease is given back."""


class Recorder:
    """A service that only remembers who is linked."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.linked: set[str] = set()

    def link_opened(self, link: Link) -> None:
        self.events.append(("opened", link.peer))
        self.linked.add(link.peer)

    def received(self, link: Link, message: Message) -> None: ...

    def link_closed(self, link: Link) -> None:
        self.events.append(("closed", link.peer))
        self.linked.discard(link.peer)

    async def run(self) -> None:
        await asyncio.Event().wait()


class Lessor(ServedReplica):
    """A verifier without an engine."""

    async def __init__(self) -> None:
        streams = StreamsConfig(port_range=(23_400, 23_499))
        await self.start(Identity(own_name(), "verifier"), lambda meter: Recorder(), streams)

    async def pid(self, replica: str) -> tuple[str, int]:
        """Who answers a call to the named replica."""
        return own_name(), os.getpid()


def deploy(num_replicas: int) -> None:
    deployment = serve.deployment(
        name="lessor",
        num_replicas=num_replicas,
        ray_actor_options={"num_cpus": 0.05},
        request_router_config=request_router_config(),
        max_ongoing_requests=8,
        health_check_period_s=1,
        graceful_shutdown_timeout_s=DRAIN_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=0.2,
    )(Lessor)
    target = serve.RunTarget(target=deployment.bind(), name=APP, route_prefix=None)
    serve.run_many([target], wait_for_applications_running=False)


async def until(condition: Callable[[], Any], what: str, timeout_s: float = 240.0) -> float:
    """Wait for a condition; returns the seconds it took."""
    begun_s = time.monotonic()
    while not condition():
        if time.monotonic() - begun_s > timeout_s:
            raise TimeoutError(what)
        await asyncio.sleep(0.05)
    return time.monotonic() - begun_s


def num_replicas() -> int:
    """How many replicas there are in any state, so also those that drain."""
    return sum(serve.status().applications[APP].deployments["lessor"].replica_states.values())


async def drill() -> dict[str, Any]:
    seen: dict[str, Any] = {}
    await asyncio.to_thread(deploy, 2)
    handle = serve.get_deployment_handle("lessor", APP)
    recorder, lessors = Recorder(), Lessors(handle)

    async def acquire(member: Member) -> Any:
        return await lessors.acquire(member.identity.peer, *GUEST)

    peers = PeerSet(recorder, GUEST, acquire)
    follow(lessors, peers, asyncio.get_running_loop())
    await until(lambda: len(recorder.linked) == 2, "links to both replicas")
    first, second = sorted(recorder.linked)

    pids = {}
    for name in [first, second] * 3:
        answered, pids[name] = await handle.pid.remote(replica=name)
        seen.setdefault("named_calls", []).append(answered == name)

    os.kill(pids[first], signal.SIGKILL)
    seen["link_loss_s"] = await until(lambda: first not in recorder.linked, "the loss of the killed replica's link")
    seen["replacement_s"] = await until(lambda: len(recorder.linked) == 2, "a link to its replacement")
    seen["kept"] = second in recorder.linked

    # Serve takes it for a new version: it replaces one replica and drains all the others.
    before = set(recorder.linked)
    await asyncio.to_thread(deploy, 1)
    seen["drain_s"] = await until(
        lambda: num_replicas() == 1 and len(recorder.linked) == 1 and not recorder.linked & before,
        "the end of the drain",
    )
    (left,) = recorder.linked
    seen["link_to_rest"] = (await handle.pid.remote(replica=left))[0] == left

    begun_s = time.monotonic()
    await peers.close()
    seen["closing_s"] = time.monotonic() - begun_s
    seen["events"] = recorder.events
    await asyncio.to_thread(serve.delete, APP)
    return seen


if __name__ == "__main__":
    ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
    print(json.dumps(asyncio.run(drill())))
