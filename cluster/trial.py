"""A cluster of several nodes on this machine: `python -m cluster.trial serve.yaml control=1:2 verifiers=3:1`

deploys a serveConfigV2 on it and prints a line of JSON a second, replicas by state and deployment, until its standard
input ends. A group is that many nodes of so many CPUs with the group's label.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import select
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cluster import application
from cluster.resources import GROUP_LABEL

_OBJECT_STORE_BYTES = 100 << 20
_PERIOD_S = 1.0
_START_ATTEMPTS = 3


class NodeGroup(NamedTuple):
    """Nodes alike."""

    name: str
    num_nodes: int
    num_cpus: int


@contextmanager
def several_nodes(groups: list[NodeGroup]) -> Iterator[None]:
    """A cluster of these nodes behind a head that holds no replica; this process is connected to it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for group in groups:
            for _ in range(group.num_nodes):
                cluster.add_node(
                    num_cpus=group.num_cpus,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    labels={GROUP_LABEL: group.name},
                )
        ray.init(address=cluster.address, namespace="serve", log_to_driver=False, logging_level=logging.WARNING)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]


def replicas(name: str) -> dict[str, Mapping[str, int]]:
    """By deployment, how many replicas are in which state."""
    from ray import serve

    status = serve.status().applications.get(name)
    if status is None:
        return {}
    return {
        name: {str(state): num for state, num in deployment.replica_states.items()}
        for name, deployment in status.deployments.items()
    }


def main() -> int:
    """Deploy, and tell how it goes until nobody listens any more."""
    parser = argparse.ArgumentParser(prog="python -m cluster.trial", description=__doc__)
    parser.add_argument("file", type=Path, help="a serveConfigV2, as `outrider config` prints it")
    parser.add_argument("groups", nargs="+", type=_group, metavar="NAME=NODES:CPUS", help="nodes by group")
    args = parser.parse_args()
    fields: dict[str, Any] = yaml.safe_load(args.file.read_text("utf-8"))
    (name,) = (entry["name"] for entry in fields["applications"])
    with several_nodes(args.groups):
        _start_serve(fields["http_options"])
        application.deploy_config(fields)
        while not _has_ended(sys.stdin, _PERIOD_S):
            if (problem := application.problem_of(name)) is not None:
                print(problem, file=sys.stderr, flush=True)
                return 1
            print(json.dumps({"time_s": time.time(), "replicas": replicas(name)}), flush=True)
    return 0


def _start_serve(options: Mapping[str, Any]) -> None:
    """Serve gives its proxy a fixed time, which a busy machine exceeds."""
    for attempt in range(_START_ATTEMPTS):
        try:
            application.start_serve(host=options["host"], port=options["port"])
            return
        except application.ServeFailed as error:
            if attempt == _START_ATTEMPTS - 1:
                raise
            print(f"{error}; trying again", file=sys.stderr, flush=True)


def _has_ended(stream: Any, timeout_s: float) -> bool:
    readable, _, _ = select.select([stream], [], [], timeout_s)
    return bool(readable) and not stream.readline()


def _group(text: str) -> NodeGroup:
    try:
        name, _, sizes = text.partition("=")
        num_nodes, num_cpus = map(int, sizes.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no group; write NAME=NODES:CPUS") from None
    return NodeGroup(name, num_nodes, num_cpus)


if __name__ == "__main__":
    sys.exit(main())
