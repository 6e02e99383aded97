"""What a role takes of a cluster, and what a node offers: for the application, the manifests and the check-up alike.

Ray's words: a bundle is resources that lie on one node; a label selector says which nodes may hold it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Resources: TypeAlias = Mapping[str, float]
Labels: TypeAlias = Mapping[str, str]

GROUP_LABEL = "outrider/group"
"""The label that every node group carries; its value is the group's name."""
ACCELERATOR_LABEL = "ray.io/accelerator-type"
"""Set by Ray where it recognises the device, and by the node groups so that the autoscaler knows beforehand."""
GROUP_OF_ROLE = {
    "ingress": "control",
    "router": "control",
    "verifier": "verifiers",
    "drafter": "drafters",
    "draft_model": "drafters",
}
"""The group that a role runs on where each role has machines of its own."""

_EPSILON = 1e-9
_SETS = re.compile(r"(!?)in\((.*)\)")


@dataclass(frozen=True, kw_only=True)
class Replica:
    """What one replica of a role takes: a Serve replica, and with `num_ranks` > 1 that many workers beside it.

    `num_cpus` and `num_gpus` are those of each process that computes. The replica of a tensor-parallel
    role only schedules: it takes `num_cpus` and no GPU.
    """

    num_cpus: float
    num_gpus: float = 0.0
    num_ranks: int = 1
    accelerator_type: str | None = None
    node_labels: Labels = field(default_factory=dict)

    @property
    def label_selector(self) -> dict[str, str]:
        """The labels that its nodes must have, in Ray's syntax."""
        accelerator = {} if self.accelerator_type is None else {ACCELERATOR_LABEL: self.accelerator_type}
        return {**self.node_labels, **accelerator}

    @property
    def bundles(self) -> tuple[dict[str, float], ...]:
        """The Serve replica's own bundle, then one per rank; all on one node."""
        rank = {"CPU": self.num_cpus, **({"GPU": self.num_gpus} if self.num_gpus else {})}
        if self.num_ranks == 1:
            return (rank,)
        return ({"CPU": self.num_cpus}, *(dict(rank) for _ in range(self.num_ranks)))

    def serve_options(self) -> dict[str, Any]:
        """The same as options of a Serve deployment."""
        own, selector = self.bundles[0], self.label_selector
        actor: dict[str, Any] = {"num_cpus": own["CPU"], "num_gpus": own.get("GPU", 0.0)}
        if self.num_ranks == 1:
            return {"ray_actor_options": {**actor, **({"label_selector": selector} if selector else {})}}
        return {
            "ray_actor_options": actor,
            "placement_group_bundles": list(self.bundles),
            "placement_group_strategy": "STRICT_PACK",
            **({"placement_group_bundle_label_selector": [selector]} if selector else {}),
        }


@dataclass(frozen=True, kw_only=True)
class Node:
    """What one node offers."""

    resources: Resources
    labels: Labels = field(default_factory=dict)

    def has_labels_for(self, replica: Replica) -> bool:
        """Whether the replica may run here."""
        return all(selects(wanted, self.labels.get(key)) for key, wanted in replica.label_selector.items())

    def num_replicas(self, replica: Replica) -> int:
        """How many such replicas an empty node of this kind holds; fractions of a GPU do not straddle GPUs."""
        if not self.has_labels_for(replica):
            return 0
        counts = [_num_times(self.resources.get("CPU", 0.0), sum(b["CPU"] for b in replica.bundles))]
        if replica.num_gpus:
            gpus = self.resources.get("GPU", 0.0)
            per_gpu = _num_times(1.0, replica.num_gpus) if replica.num_gpus < 1 else 1 / replica.num_gpus
            counts.append(_num_times(gpus * per_gpu, replica.num_ranks))
        return min(counts)


def selects(wanted: str, value: str | None) -> bool:
    """Whether a label's value (None: the node has no such label) is what a selector wants, as Ray reads it.

    `a`, `!a`, `in(a, b)` and `!in(a, b)`.
    """
    if found := _SETS.fullmatch(wanted):
        is_in = value in {name.strip() for name in found[2].split(",")}
        return not is_in if found[1] else is_in
    return value != wanted[1:] if wanted.startswith("!") else value == wanted


def _num_times(room: float, size: float) -> int:
    return int((room + _EPSILON) // size)
