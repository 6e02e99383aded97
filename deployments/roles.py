"""The deployed roles of a configuration, and what each takes of a cluster. No ray here."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.resources import Replica
from deployments.config import OutriderConfig, RoleConfig
from deployments.messages import DrafterKind

DEPLOYMENT_OF_KIND: dict[DrafterKind, str] = {"mtp": "drafter", "draft_model": "draft_model"}
"""Each kind of drafter is a deployment of its own, named as its section of the configuration."""


def roles_of(config: OutriderConfig) -> dict[str, RoleConfig]:
    """By the deployment's name, in the order of a request."""
    roles: dict[str, RoleConfig] = {"ingress": config.ingress, "router": config.router, "verifier": config.verifier}
    return {**roles, **{DEPLOYMENT_OF_KIND[kind]: role for kind, role in config.drafter_roles.items()}}


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How many replicas a role has: at least, to begin with, and at most; all the same where nothing scales it."""

    least: int
    first: int
    most: int


def scale_of(name: str, config: OutriderConfig) -> Scale:
    """Of one of the deployed roles."""
    role, scaling = roles_of(config)[name], config.autoscaling
    most = config.most_replicas(name, role)
    if not scaling.enabled or name in ("ingress", "router"):
        return Scale(least=role.num_replicas, first=role.num_replicas, most=most)
    least = scaling.min_verifiers if name == "verifier" else scaling.min_drafters
    return Scale(least=least, first=min(max(role.num_replicas, least), most), most=most)


def replica_of(role: RoleConfig) -> Replica:
    """What one replica of a role takes."""
    return Replica(
        num_cpus=role.num_cpus,
        num_gpus=role.num_gpus,
        num_ranks=role.num_ranks,
        accelerator_type=role.accelerator_type,
        node_labels=role.node_labels,
    )
