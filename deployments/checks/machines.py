"""CPUs, GPUs and labels: do the nodes hold what the configuration asks for, and what autoscaling may come to ask?"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.resources import ACCELERATOR_LABEL, Node, Replica, selects, unplaced
from deployments.checks.finding import Finding, ok, problem, warning
from deployments.config import OutriderConfig
from deployments.roles import replica_of, roles_of, scale_of


def check_machines(config: OutriderConfig, nodes: Sequence[Node]) -> list[Finding]:
    """One finding per role: whether its replicas find a place beside all the others, at the start and at the most.

    The most is a warning only: a cluster that scales adds nodes for it.
    """
    roles = roles_of(config)
    scales = {name: scale_of(name, config) for name in roles}
    first = unplaced({name: (replica_of(role), scales[name].first) for name, role in roles.items()}, nodes)
    most = unplaced({name: (replica_of(role), scales[name].most) for name, role in roles.items()}, nodes)
    findings = []
    for name, role in roles.items():
        replica, scale = replica_of(role), scales[name]
        if first.get(name):
            findings.append(_misfit(name, replica, first[name], nodes))
        elif most.get(name):
            findings.append(_short_of_most(name, replica, scale.most - most[name], scale.most))
        else:
            count = str(scale.first) if scale.first == scale.most else f"{scale.first}, and at most {scale.most},"
            findings.append(ok("machines", f"{name}: {count} of {_size(replica)} find a place"))
    return findings


def _short_of_most(name: str, replica: Replica, num_placed: int, most: int) -> Finding:
    """Replicas that autoscaling may ask for and these nodes have no room for."""
    field = "max_verifiers" if name == "verifier" else "max_drafters"
    bound = f"autoscaling.{field}" if name not in ("ingress", "router") else "what the other roles may grow to"
    return warning(
        "machines",
        f"{name}: {num_placed} of at most {most} of {_size(replica)} find a place when all roles are at their most",
        f"add nodes (or let the cluster's autoscaler: the group's maxReplicas), or lower {bound}",
    )


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
