"""The machines that Ray would place replicas on: a running cluster's, or this one alone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.resources import ACCELERATOR_LABEL, Node

_CONNECT_TIMEOUT_S = 10.0


class NoCluster(ConnectionError):
    """No cluster answers at the address."""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Join a running cluster as a driver for a while; NoCluster if nobody answers."""
    # The token that the cluster was started with; without one Ray says so in its error.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray
    from ray._private.services import canonicalize_bootstrap_address_or_die

    try:
        # Ray itself tries for minutes where nobody listens.
        host, _, port = canonicalize_bootstrap_address_or_die(address).rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
        ray.init(address=address, namespace="serve", log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError, AuthenticationError
        raise NoCluster(f"no Ray cluster can be joined at {address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def cluster_nodes() -> list[Node]:
    """The living nodes of the cluster that this process is connected to; those without CPUs hold no replica."""
    import ray

    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node for node in known if node["Alive"] and node["Resources"].get("CPU")]
    return [
        Node(
            resources={name: float(node["Resources"].get(name, 0)) for name in ("CPU", "GPU")},
            labels=dict(node.get("Labels", {})),
        )
        for node in nodes
    ]


def this_machine() -> Node:
    """What Ray would see of this machine, were it started here without labels."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    manager = get_accelerator_manager_for_resource("GPU")
    num_gpus = manager.get_current_node_num_accelerators() if manager is not None else 0
    kind = manager.get_current_node_accelerator_type() if manager is not None and num_gpus else None
    labels = {} if kind is None else {ACCELERATOR_LABEL: kind}
    return Node(resources={"CPU": float(os.cpu_count() or 1), "GPU": float(num_gpus)}, labels=labels)
