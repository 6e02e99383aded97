"""The verifier on Ray Serve: the target and its service on a data plane of their own.

With `tensor_parallel_size` above 1 this process schedules, and one worker per rank computes:

    service -> ParallelEngine -> Unix sockets -> workers, each with a PagedEngine on its share of the target
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ray.serve.handle import DeploymentHandle

from cluster.discovery import Lessors, own_address, own_name
from cluster.exporter import RayExporter
from cluster.logs import own_rank, replica_handlers
from cluster.worker_group import WorkerGroup
from deployments.colocation import ColocatedService
from deployments.config import OutriderConfig, parse
from deployments.distributions import DistributionStore
from deployments.link import Identity
from deployments.logs import set_up
from deployments.messages import DrafterKind
from deployments.metering import Meter
from deployments.replica import ServedReplica, end_process
from deployments.service_host import Service
from deployments.signals import verifier_reader
from deployments.verifier.engine import VerifierEngine
from deployments.verifier.parallel_engine import ParallelEngine, RankListener
from deployments.verifier.serving import build_service


class DraftersInside(Protocol):
    """How drafters get into a verifier; app.py has the real one."""

    def build_service(
        self, config: OutriderConfig, kind: DrafterKind, meter: Meter, store: DistributionStore | None
    ) -> Service:
        """A drafter with its engine in this process."""

    def hold_engine(self, config: OutriderConfig, kind: DrafterKind) -> tuple[object, type]:
        """The engine alone, in the first rank's process, and the Protocol that it implements."""

    def service_over(self, config: OutriderConfig, kind: DrafterKind, meter: Meter, ranks: Caller) -> Service:
        """A drafter in this process over the engine that the first rank holds."""


Caller = Callable[[str, type], Callable[..., Any]]
"""(engine, its Protocol) -> what calls its methods."""

_RANKS_START_TIMEOUT_S = 3600.0
"""Loading a large checkpoint from a cold disk takes a good part of an hour."""


class Verifier(ServedReplica):
    """One replica of the verifier; `config` is a resolved configuration, `drafter` the drafters that it feeds.

    `inside` makes the drafters that are inside this process, or inside its first rank's.
    """

    _ranks: Ranks | None = None

    # Serve awaits a constructor that is a coroutine; mypy knows none.
    async def __init__(  # type: ignore[misc]
        self, config: dict[str, Any], drafter: DeploymentHandle[Any] | None, inside: DraftersInside
    ) -> None:
        settings, identity = parse(config), Identity(own_name(), "verifier")
        set_up(settings.logs, identity, own_rank(), replica_handlers())

        self._ranks = ranks = Ranks(settings, inside) if settings.verifier.num_ranks > 1 else None

        def build(meter: Meter) -> Service:
            store = DistributionStore()
            verifier = build_service(settings, build_engine(settings, ranks), meter, store)
            if not settings.colocated_kinds:
                return verifier
            drafters = {
                kind: inside.build_service(settings, kind, meter, store)
                if ranks is None
                else inside.service_over(settings, kind, meter, ranks.engine().caller)
                for kind in settings.colocated_kinds
            }
            return ColocatedService(identity, verifier, drafters)

        await self.start(
            identity,
            build,
            settings.streams.on_node(own_address()),
            [Lessors(drafter)] if drafter is not None else [],
            RayExporter().export,
            verifier_reader(settings.verifier.max_step_tokens),
        )

    async def stop(self) -> None:
        """Part from the peers, and let the ranks go. Idempotent."""
        await super().stop()
        ranks, self._ranks = self._ranks, None
        if ranks is not None:
            ranks.stop()


class Ranks:
    """The workers of one replica, from their start until they are let go."""

    def __init__(self, config: OutriderConfig, inside: DraftersInside) -> None:
        self._config = config
        self._engine: ParallelEngine | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-ranks-")
        self._listener = RankListener(Path(self._folder.name))
        work = partial(_serve_share, config.model_dump(mode="json"), self._folder.name, inside)
        self._group = WorkerGroup(work, f"verifier-{own_name()}")
        self._is_stopped = False

    def engine(self) -> ParallelEngine:
        """The engine over all ranks, once they are ready; called on the data plane's loop, which it blocks until then.

        A rank that is lost later ends this process: Serve sees that at once, and puts another replica in its place.
        """
        if self._engine is not None:
            return self._engine
        verifier = self._config.verifier
        engine = self._listener.engine(
            verifier.num_ranks,
            start_timeout_s=_RANKS_START_TIMEOUT_S,
            timeout_s=verifier.rank_timeout_s,
            failure=self._group.failure,
            on_lost=self._on_lost,
        )
        engine.watch(asyncio.get_running_loop())
        self._engine = engine
        return engine

    def _on_lost(self, reason: str) -> None:
        if not self._is_stopped:
            end_process(f"the target is lost: {reason}")

    def stop(self) -> None:
        """Let the workers go. Idempotent."""
        self._is_stopped = True
        self._group.stop()
        self._folder.cleanup()


def _serve_share(fields: dict[str, Any], folder: str, inside: DraftersInside, rank: int) -> None:
    # The worker imports it, and torch with it; the process that schedules does not.
    from deployments.verifier.rank_worker import serve_share

    serve_share(fields, folder, rank, inside.hold_engine)


def build_engine(config: OutriderConfig, ranks: Ranks | None) -> VerifierEngine:
    """Load the target, here or in the ranks, and put an engine around it."""
    if ranks is not None:
        return ranks.engine()
    # Here, not above: the process that builds the application never loads torch.
    from deployments.verifier.building import build_engine as build_here

    return build_here(config)
