"""What a role takes of a cluster, and what a node offers: for the application, the manifests and the check-up alike.

Ray's words: a bundle is resources that lie on one node; a label selector says which nodes may hold it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
        """How many such replicas an empty node of this kind holds."""
        room, num = _Room(self), 0
        while room.take(replica):
            num += 1
        return num


class _Room:
    """What is left of a node while replicas are placed on it; a fraction of a GPU lies on one GPU."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._cpus = node.resources.get("CPU", 0.0)
        self._gpus = [1.0] * int(node.resources.get("GPU", 0.0))

    def take(self, replica: Replica) -> bool:
        """Place one replica, whole or not at all."""
        if not self.node.has_labels_for(replica):
            return False
        cpus, gpus = self._cpus, list(self._gpus)
        for bundle in replica.bundles:
            cpus -= bundle["CPU"]
            if cpus < -_EPSILON or not _take_gpus(gpus, bundle.get("GPU", 0.0)):
                return False
        self._cpus, self._gpus = cpus, gpus
        return True


def unplaced(wanted: Mapping[str, tuple[Replica, int]], nodes: Sequence[Node]) -> dict[str, int]:
    """How many replicas of each role find no place on these nodes, first fit: GPU roles first, on the smallest node."""
    rooms = sorted(map(_Room, nodes), key=lambda room: (room.node.resources.get("GPU", 0), room.node.resources["CPU"]))
    left = {}
    for name, (replica, num) in sorted(wanted.items(), key=lambda item: -item[1][0].num_gpus * item[1][0].num_ranks):
        placed = sum(any(room.take(replica) for room in rooms) for _ in range(num))
        if placed < num:
            left[name] = num - placed
    return left


def selects(wanted: str, value: str | None) -> bool:
    """Whether a label's value (None: the node has no such label) is what a selector wants, as Ray reads it.

    `a`, `!a`, `in(a, b)` and `!in(a, b)`.
    """
    if found := _SETS.fullmatch(wanted):
        is_in = value in {name.strip() for name in found[2].split(",")}
        return not is_in if found[1] else is_in
    return value != wanted[1:] if wanted.startswith("!") else value == wanted


def _take_gpus(gpus: list[float], amount: float) -> bool:
    if amount == 0:
        return True
    whole = amount >= 1
    size, times = (1.0, round(amount)) if whole else (amount, 1)
    # A fraction goes where the least is left, as Ray packs it.
    fitting = sorted((left, index) for index, left in enumerate(gpus) if left >= size - _EPSILON)
    if len(fitting) < times:
        return False
    for _, index in fitting[:times]:
        gpus[index] -= size
    return True
