"""Discovery and leases on Ray Serve: a request router that publishes its replicas and routes a call to a named one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import ray
import ray.util
from ray import serve
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from cluster.membership import Replicas, membership_of

LEASE_METHOD = "lease"
"""The streaming method of a deployment that grants leases: it yields a token, then stays open.

Its keyword `replica` names the lessor.
"""


class MembershipRouter(RequestRouter):
    """Publishes every change of a deployment's replicas; sends a call with a `replica` keyword to that replica only."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called by Serve, on its router's thread, whenever the replicas or their states have changed."""
        super().update_replicas(replicas)
        membership = membership_of(self._deployment_id.app_name, self._deployment_id.name)
        membership.publish({replica.replica_id.unique_id: replica.replica_metadata for replica in replicas})

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The named replica; none while it is unknown, so callers set a deadline."""
        if pending_request is None or "replica" not in pending_request.kwargs:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        name = pending_request.kwargs["replica"]
        return [[replica for replica in candidate_replicas if replica.replica_id.unique_id == name]]


def request_router_config() -> RequestRouterConfig:
    """The option that makes a deployment's callers use MembershipRouter."""
    return RequestRouterConfig(request_router_class=f"{__name__}.MembershipRouter")  # type: ignore[arg-type]


def own_name() -> str:
    """This replica's name, as its peers' MembershipRouters know it."""
    return str(serve.get_replica_context().replica_id.unique_id)


def own_address() -> str:
    """The address of this process's node, as other nodes reach it."""
    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


class HandleLease:
    """A lease held through an open streaming call; Serve counts it as an ongoing request of the lessor."""

    def __init__(self, token: str, call: DeploymentResponseGenerator[str]) -> None:
        self.token = token
        self._call = call
        self._ended = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        with contextlib.suppress(Exception):  # however the call ends, the lease is over
            async for _ in self._call:
                pass

    async def wait_ended(self) -> None:
        """Return once the other side has ended the call, or has died."""
        await asyncio.wait([self._ended])

    def release(self) -> None:
        """Cancel the call. Idempotent."""
        self._call.cancel()  # type: ignore[no-untyped-call]
        self._ended.cancel()


class Lessors:
    """The replicas of one deployment that leases can be taken of; used on the loop of Serve's user code."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        # Options make the handle's router, and so the subscription to the membership, at once.
        self._lease = handle.options(method_name=LEASE_METHOD, stream=True)
        self._membership = membership_of(handle.app_name, handle.deployment_name)

    def subscribe(self, listener: Callable[[Replicas], None]) -> None:
        """Call the listener now and at every change of membership, on any thread."""
        self._membership.subscribe(listener)

    async def acquire(self, replica: str, guest_name: str, guest_role: str) -> HandleLease:
        """A lease of the named replica; waits for the replica without end, so cancel it at a deadline."""
        call = self._lease.remote(guest_name, guest_role, replica=replica)
        assert isinstance(call, DeploymentResponseGenerator)
        try:
            token = await anext(aiter(call))
        except BaseException:
            call.cancel()  # type: ignore[no-untyped-call]
            raise
        return HandleLease(token, call)
