"""Roles that find no place: which role, why, and what would help."""

from __future__ import annotations

import re

import pytest

from cluster.resources import ACCELERATOR_LABEL, Node
from deployments.checks.machines import check_machines
from deployments.config import OutriderConfig, parse

LAPTOP = Node(resources={"CPU": 2, "GPU": 0})
H100S = Node(resources={"CPU": 32, "GPU": 4}, labels={ACCELERATOR_LABEL: "H100"})
L4 = Node(resources={"CPU": 8, "GPU": 1}, labels={ACCELERATOR_LABEL: "L4"})
GPUS = parse(
    {
        "verifier": {"num_gpus": 1, "num_cpus": 2, "tensor_parallel_size": 4, "accelerator_type": "in(H100, H200)"},
        "drafter": {"num_gpus": 1, "num_cpus": 1, "accelerator_type": "L4"},
    }
)


def problems(config: OutriderConfig, *nodes: Node) -> list[str]:
    return [f"{f.detail} -> {f.remedy}" for f in check_machines(config, nodes) if f.state == "problem"]


def test_everything_finds_a_place() -> None:
    assert problems(OutriderConfig(), LAPTOP) == []
    assert problems(GPUS, H100S, L4) == []
    assert len(check_machines(GPUS, [H100S, L4])) == 4


@pytest.mark.parametrize(
    ("config", "nodes", "said"),
    [
        (GPUS, (H100S,), "drafter wants nodes with ray.io/accelerator-type: L4; there are H100 -> .*accelerator_type"),
        (GPUS, (LAPTOP,), "there are none with that label"),
        (
            GPUS,
            (Node(resources={"CPU": 32, "GPU": 2}, labels=H100S.labels), L4),
            "verifier takes 10 CPUs, 4 GPUs on one node; .*32 CPUs, 2 GPUs -> .*or tensor_parallel_size",
        ),
        (
            parse({"drafter": {"node_labels": {"zone": "a"}}}),
            (Node(resources={"CPU": 2}, labels={"zone": "b"}),),
            r"drafter wants nodes with zone: a; there are b -> .*--labels=zone=.*drafter\.node_labels",
        ),
        (
            parse({"verifier": {"num_cpus": 0.9, "num_replicas": 3}}),
            (LAPTOP,),
            r"verifier: \d replica\(s\) of 0\.9 CPUs find no place beside .* -> add a node, or lower verifier\.num_rep",
        ),
    ],
)
def test_a_role_without_a_place(config: OutriderConfig, nodes: tuple[Node, ...], said: str) -> None:
    found = problems(config, *nodes)
    assert any(re.search(said, line) for line in found), found


def test_two_shares_of_a_gpu_do_not_straddle_two() -> None:
    share = {"num_gpus": 0.6, "num_cpus": 0.5, "max_gpu_bytes": 1 << 30}
    config = parse({"verifier": share, "drafter": share})
    assert len(problems(config, Node(resources={"CPU": 8, "GPU": 1}))) == 1
    assert problems(config, Node(resources={"CPU": 8, "GPU": 2})) == []
