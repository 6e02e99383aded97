"""The verifier on Ray Serve: the target and its service on a data plane of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster.discovery import Lessors, own_address, own_name
from cluster.exporter import RayExporter
from cluster.logs import own_rank, replica_handlers
from deployments.colocation import ColocatedService
from deployments.config import OutriderConfig, parse
from deployments.link import Identity
from deployments.logs import set_up
from deployments.messages import DrafterKind
from deployments.metering import Meter
from deployments.replica import ServedReplica
from deployments.service_host import Service
from deployments.verifier.service import VerifierService, VerifierSettings

BuildDrafter = Callable[[OutriderConfig, DrafterKind, Meter], Service]


class Verifier(ServedReplica):
    """One replica of the verifier; `config` is a resolved configuration, `drafter` the drafters that it feeds.

    `build_drafter` makes the services of the drafters that are inside this process.
    """

    # Serve awaits a constructor that is a coroutine; mypy knows none.
    async def __init__(  # type: ignore[misc]
        self, config: dict[str, Any], drafter: DeploymentHandle[Any] | None, build_drafter: BuildDrafter
    ) -> None:
        settings, identity = parse(config), Identity(own_name(), "verifier")
        set_up(settings.logs, identity, own_rank(), replica_handlers())

        def build(meter: Meter) -> Service:
            verifier = build_service(settings, meter)
            if not settings.colocated_kinds:
                return verifier
            drafters = {kind: build_drafter(settings, kind, meter) for kind in settings.colocated_kinds}
            return ColocatedService(identity, verifier, drafters)

        await self.start(
            identity,
            build,
            settings.streams.on_node(own_address()),
            [Lessors(drafter)] if drafter is not None else [],
            RayExporter().export,
        )


def build_service(config: OutriderConfig, meter: Meter) -> VerifierService:
    """Load the target and put an engine and a service around it."""
    # Here, not above: the process that builds the application never loads torch.
    import torch

    from deployments.kernels.library import Kernels
    from deployments.models.devices import bound_gpu_memory
    from deployments.models.loading import load_target
    from deployments.verifier.paged_engine import CacheLimits, PagedEngine

    verifier, speculation = config.verifier, config.speculation
    if verifier.num_ranks > 1:
        raise ValueError(
            f"verifier.tensor_parallel_size: {verifier.num_ranks}, but in this release one device computes a target; "
            "set 1"
        )
    bound_gpu_memory(verifier.max_gpu_bytes if verifier.device == "cuda" else None)
    torch.set_num_threads(verifier.num_threads)
    context, num_kv_tokens = config.model.max_context_tokens, verifier.kv_cache.num_tokens
    assert isinstance(context, int)
    assert isinstance(num_kv_tokens, int)
    target = load_target(config.model.model_source, dtype=getattr(torch, config.model.dtype), device=verifier.device)
    engine = PagedEngine(
        target,
        CacheLimits(
            max_context_tokens=context,
            num_kv_tokens=num_kv_tokens,
            max_sessions=verifier.max_sessions,
            max_lookahead=speculation.max_speculative_tokens,
            block_size=verifier.kv_cache.block_size,
        ),
        Kernels(
            compiled=config.kernels.compiled,
            cache_folder=config.kernels.folder,
            num_threads=verifier.num_threads,
        ),
    )
    return VerifierService(
        engine,
        VerifierSettings(
            max_step_tokens=verifier.max_step_tokens,
            prompt_tokens=verifier.prompt_tokens,
            max_lookahead=speculation.max_speculative_tokens,
        ),
        meter,
    )
