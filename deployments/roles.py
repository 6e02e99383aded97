"""The deployed roles of a configuration, and what each takes of a cluster. No ray here."""

from __future__ import annotations

from cluster.resources import Replica
from deployments.config import OutriderConfig, RoleConfig
from deployments.messages import DrafterKind

DEPLOYMENT_OF_KIND: dict[DrafterKind, str] = {"mtp": "drafter", "draft_model": "draft_model"}
"""Each kind of drafter is a deployment of its own, named as its section of the configuration."""


def roles_of(config: OutriderConfig) -> dict[str, RoleConfig]:
    """By the deployment's name, in the order of a request."""
    roles: dict[str, RoleConfig] = {"ingress": config.ingress, "router": config.router, "verifier": config.verifier}
    return {**roles, **{DEPLOYMENT_OF_KIND[kind]: role for kind, role in config.drafter_roles.items()}}


def replica_of(role: RoleConfig) -> Replica:
    """What one replica of a role takes."""
    return Replica(
        num_cpus=role.num_cpus,
        num_gpus=role.num_gpus,
        num_ranks=role.num_ranks,
        accelerator_type=role.accelerator_type,
        node_labels=role.node_labels,
    )
