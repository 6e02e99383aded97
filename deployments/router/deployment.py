"""The router on Ray Serve: sessions and rounds on a data plane of their own, linked to verifiers and drafters."""

from __future__ import annotations

from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster.discovery import Lessors, own_address, own_name
from cluster.exporter import RayExporter
from cluster.logs import own_rank, replica_handlers
from deployments.config import parse
from deployments.link import Identity
from deployments.logs import set_up
from deployments.replica import ServedReplica
from deployments.router.building import build_service
from deployments.signals import router_reader


class Router(ServedReplica):
    """One replica of the router; `config` is a resolved configuration."""

    # Serve awaits a constructor that is a coroutine; mypy knows none.
    async def __init__(  # type: ignore[misc]
        self, config: dict[str, Any], verifier: DeploymentHandle[Any], *drafters: DeploymentHandle[Any]
    ) -> None:
        settings = parse(config)
        identity = Identity(own_name(), "router")
        set_up(settings.logs, identity, own_rank(), replica_handlers())
        await self.start(
            identity,
            lambda meter: build_service(settings, meter),
            settings.streams.on_node(own_address()),
            [Lessors(handle) for handle in (verifier, *drafters)],
            RayExporter().export,
            router_reader(),
        )
