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


def scaled(**autoscaling: int) -> OutriderConfig:
    fields = {"enabled": True, **autoscaling}
    ingress = {"max_running_requests": 64}
    return parse({"verifier": {"num_cpus": 1}, "drafter": {"num_cpus": 1}, "ingress": ingress, "autoscaling": fields})


def test_what_autoscaling_may_ask_for_is_a_warning_where_it_finds_no_place() -> None:
    findings = check_machines(scaled(max_verifiers=5, max_drafters=1), [Node(resources={"CPU": 4, "GPU": 0})])
    said = " ".join(f"{f.detail} -> {f.remedy}" for f in findings if f.state == "warning")
    assert re.search(r"verifier: 3 of at most 5 of 1 CPUs .* -> add nodes .*lower autoscaling\.max_verifiers", said)
    assert [f.state for f in findings] == ["ok", "ok", "warning", "warning"]
    assert not problems(scaled(max_verifiers=3, max_drafters=1), Node(resources={"CPU": 8, "GPU": 0}))


def test_what_autoscaling_starts_with_is_a_problem_where_it_finds_no_place() -> None:
    found = problems(scaled(min_verifiers=3), Node(resources={"CPU": 3, "GPU": 0}))
    assert any("replica(s) of 1 CPUs find no place" in line for line in found), found


def test_two_shares_of_a_gpu_do_not_straddle_two() -> None:
    share = {"num_gpus": 0.6, "num_cpus": 0.5, "max_gpu_bytes": 1 << 30}
    config = parse({"verifier": share, "drafter": share})
    assert len(problems(config, Node(resources={"CPU": 8, "GPU": 1}))) == 1
    assert problems(config, Node(resources={"CPU": 8, "GPU": 2})) == []
