"""The router on Ray Serve: sessions and rounds on a data plane of their own, linked to verifiers and drafters."""

from __future__ import annotations

import secrets
from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster.discovery import Lessors, own_address, own_name
from cluster.exporter import RayExporter
from cluster.logs import own_rank, replica_handlers
from deployments.config import OutriderConfig, parse
from deployments.link import Identity
from deployments.logs import set_up
from deployments.metering import Meter
from deployments.replica import ServedReplica
from deployments.router.service import RouterService, RouterSettings
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


def build_service(config: OutriderConfig, meter: Meter) -> RouterService:
    """A router with no session yet; its instance number is drawn, so that no two epochs are alike."""
    router, speculation = config.router, config.speculation
    settings = RouterSettings(
        max_sessions=router.max_sessions,
        drafter=speculation.drafter,
        policy=speculation.policy,
        num_speculative_tokens=speculation.num_speculative_tokens,
        max_speculative_tokens=speculation.max_speculative_tokens,
        proposal_timeout_s=router.proposal_timeout_s,
        verify_timeout_s=router.verify_timeout_s,
        placement_timeout_s=router.placement_timeout_s,
    )
    return RouterService(settings, instance=secrets.randbits(31), meter=meter)
