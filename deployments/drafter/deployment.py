"""The drafter on Ray Serve: an assistant and its service on a data plane of their own."""

from __future__ import annotations

from typing import Any

from cluster.discovery import own_address, own_name
from cluster.exporter import RayExporter
from deployments.config import OutriderConfig, parse
from deployments.drafter.service import DrafterService, DrafterSettings
from deployments.link import Identity
from deployments.metering import Meter
from deployments.replica import ServedReplica


class Drafter(ServedReplica):
    """One replica of the drafter; `config` is a resolved configuration."""

    # Serve awaits a constructor that is a coroutine; mypy knows none.
    async def __init__(self, config: dict[str, Any]) -> None:  # type: ignore[misc]
        settings = parse(config)
        await self.start(
            Identity(own_name(), "drafter"),
            lambda meter: build_service(settings, meter),
            settings.streams.on_node(own_address()),
            export=RayExporter().export,
        )


def build_service(config: OutriderConfig, meter: Meter) -> DrafterService:
    """Load the assistant, and of the target its embedding alone, and put a service around them."""
    # Here, not above: the process that builds the application never loads torch.
    import torch

    from deployments.drafter.mtp_engine import load_mtp_engine
    from deployments.models.devices import bound_gpu_memory

    bound_gpu_memory(config.drafter.max_gpu_bytes if config.drafter.device == "cuda" else None)
    torch.set_num_threads(config.drafter.num_threads)
    engine = load_mtp_engine(
        config.model.model_source,
        config.model.assistant_source,
        dtype=getattr(torch, config.model.dtype),
        shadow_bytes=config.drafter.max_shadow_bytes,
        device=config.drafter.device,
    )
    return DrafterService(engine, DrafterSettings(max_batch_sessions=config.drafter.max_batch_sessions), meter)
