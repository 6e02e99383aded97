"""CPUs, GPUs and labels: do the nodes hold what the configuration asks for?"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.resources import ACCELERATOR_LABEL, Node, Replica, selects, unplaced
from deployments.checks.finding import Finding, ok, problem
from deployments.config import OutriderConfig
from deployments.roles import replica_of, roles_of


def check_machines(config: OutriderConfig, nodes: Sequence[Node]) -> list[Finding]:
    """One finding per role: whether its replicas find a place beside all the others."""
    roles = roles_of(config)
    wanted = {name: (replica_of(role), role.num_replicas) for name, role in roles.items()}
    left = unplaced(wanted, nodes)
    findings = []
    for name, (replica, num_replicas) in wanted.items():
        if not left.get(name):
            findings.append(ok("machines", f"{name}: {num_replicas} of {_size(replica)} find a place"))
        else:
            findings.append(_misfit(name, replica, left[name], nodes))
    return findings


def _misfit(name: str, replica: Replica, num_left: int, nodes: Sequence[Node]) -> Finding:
    """The first reason that keeps the role from every node."""
    for key, wanted in replica.label_selector.items():
        if not any(selects(wanted, node.labels.get(key)) for node in nodes):
            values = sorted({node.labels[key] for node in nodes if key in node.labels})
            have = ", ".join(values) if values else "none with that label"
            field = "accelerator_type" if key == ACCELERATOR_LABEL else "node_labels"
            return problem(
                "labels",
                f"{name} wants nodes with {key}: {wanted}; there are {have}",
                f"start the nodes with `ray start --labels={key}=...` (KubeRay: the group's `labels`), or change "
                f"{name}.{field}",
            )
    fitting = [node.resources for node in nodes if node.has_labels_for(replica)]
    if not any(node.num_replicas(replica) for node in nodes):
        sizes = "; ".join(f"{size.get('CPU', 0):g} CPUs, {size.get('GPU', 0):g} GPUs" for size in fitting)
        return problem(
            "machines",
            f"{name} takes {_size(replica)} on one node; those that it may use have {sizes or 'not all its labels'}",
            f"use larger nodes, or lower {name}.num_cpus, num_gpus"
            + (" or tensor_parallel_size" if replica.num_ranks > 1 else ""),
        )
    return problem(
        "machines",
        f"{name}: {num_left} replica(s) of {_size(replica)} find no place beside the other roles",
        f"add a node, or lower {name}.num_replicas",
    )


def _size(replica: Replica) -> str:
    cpus = sum(bundle["CPU"] for bundle in replica.bundles)
    gpus = sum(bundle.get("GPU", 0) for bundle in replica.bundles)
    return f"{cpus:g} CPUs" + (f", {gpus:g} GPUs" if gpus else "")
