"""What a role's engine takes of memory, and how every role says so at its start."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from deployments import measures
from deployments.logs import about
from deployments.metering import Meter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes of one engine, all its ranks together: what it has loaded, and bounds on what it comes to need.

    `cache_bytes` are the keys and values, or shadows, that it may hold; `workspace_bytes` what its largest step takes.
    """

    weights_bytes: int = 0
    cache_bytes: int = 0
    workspace_bytes: int = 0

    def __add__(self, other: MemoryUse) -> MemoryUse:
        return MemoryUse(
            weights_bytes=self.weights_bytes + other.weights_bytes,
            cache_bytes=self.cache_bytes + other.cache_bytes,
            workspace_bytes=self.workspace_bytes + other.workspace_bytes,
        )

    def report(self, meter: Meter, role: str) -> None:
        """A line in the log, and a metric."""
        parts = {"weights": self.weights_bytes, "cache": self.cache_bytes, "workspace": self.workspace_bytes}
        gauge = meter.gauge(measures.MEMORY_BYTES)
        for part, num_bytes in parts.items():
            gauge.cell(role, part).set(num_bytes)
        logger.info("memory", extra=about(engine=role, **{f"{part}_bytes": value for part, value in parts.items()}))
