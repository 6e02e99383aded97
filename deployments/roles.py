"""The deployed roles of a configuration, and what each takes of a cluster. No ray here."""

from __future__ import annotations

from cluster.resources import Replica
from deployments.config import OutriderConfig, RoleConfig


def roles_of(config: OutriderConfig) -> dict[str, RoleConfig]:
    """By the deployment's name, in the order of a request."""
    roles: dict[str, RoleConfig] = {"ingress": config.ingress, "router": config.router, "verifier": config.verifier}
    return {**roles, "drafter": config.drafter} if config.has_drafter else roles


def replica_of(role: RoleConfig) -> Replica:
    """What one replica of a role takes."""
    return Replica(
        num_cpus=role.num_cpus,
        num_gpus=role.num_gpus,
        num_ranks=role.num_ranks,
        accelerator_type=role.accelerator_type,
        node_labels=role.node_labels,
    )
