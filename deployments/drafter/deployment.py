"""A drafter on Ray Serve: a model to draft with and its service on a data plane of their own."""

from __future__ import annotations

from typing import Any

from cluster.discovery import own_address, own_name
from cluster.exporter import RayExporter
from cluster.logs import own_rank, replica_handlers
from deployments.config import parse
from deployments.drafter.building import build_service
from deployments.link import Identity
from deployments.logs import set_up
from deployments.messages import DrafterKind
from deployments.replica import ServedReplica
from deployments.signals import drafter_reader


class Drafter(ServedReplica):
    """One replica of a drafter of one kind; `config` is a resolved configuration."""

    # Serve awaits a constructor that is a coroutine; mypy knows none.
    async def __init__(self, config: dict[str, Any], kind: DrafterKind) -> None:  # type: ignore[misc]
        settings = parse(config)
        identity = Identity(own_name(), "drafter")
        set_up(settings.logs, identity, own_rank(), replica_handlers())
        await self.start(
            identity,
            lambda meter: build_service(settings, kind, meter),
            settings.streams.on_node(own_address()),
            export=RayExporter().export,
            signals=drafter_reader(),
        )
