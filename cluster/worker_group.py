"""Worker processes beside a Serve replica, one per rank, in the replica's own placement group.

What a worker does is handed in. Workers end with their replica, which asks `failure` whether one has ended before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
import ray.exceptions
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class Worker:
    """One rank's process; the actor exists for `run` alone."""

    def run(self, work: Callable[[int], None], rank: int) -> None:
        """Work until there is nothing left to do."""
        work(rank)


class WorkerGroup:
    """Starts one worker per bundle behind the replica's own, and watches them."""

    def __init__(self, work: Callable[[int], None], name: str) -> None:
        group = get_current_placement_group()
        assert group is not None, "a replica with ranks is placed by bundles"
        self._actors: list[Any] = []
        for rank, bundle in enumerate(group.bundle_specs[1:]):
            options: dict[str, Any] = {
                "name": f"{name}-rank-{rank}",
                "num_cpus": bundle["CPU"],
                "num_gpus": bundle.get("GPU", 0),
                "scheduling_strategy": PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=rank + 1
                ),
            }
            self._actors.append(ray.remote(Worker).options(**options).remote())
        self._runs = [actor.run.remote(work, rank) for rank, actor in enumerate(self._actors)]

    def failure(self) -> str | None:
        """Why the first worker that has ended did so; None while all work."""
        ended, _ = ray.wait(self._runs, num_returns=1, timeout=0)
        for run in ended:
            name = f"rank {self._runs.index(run)}"
            try:
                ray.get(run)
            except ray.exceptions.RayError as error:
                return f"{name} has failed: {error}"
            return f"{name} has ended"
        return None

    def stop(self) -> None:
        """End all workers. Idempotent."""
        for actor in self._actors:
            ray.kill(actor)
