"""What a role takes, what a node offers, and the options that Serve gets of it."""

from __future__ import annotations

import pytest

from cluster.resources import ACCELERATOR_LABEL, Node, Replica, selects
from tests.support.ray_modules import ray_module

L4 = Node(resources={"CPU": 8, "GPU": 1}, labels={ACCELERATOR_LABEL: "L4", "outrider/group": "drafters"})
H100 = Node(resources={"CPU": 64, "GPU": 8}, labels={ACCELERATOR_LABEL: "H100"})


def test_a_plain_replica_is_one_bundle_and_an_actor() -> None:
    replica = Replica(num_cpus=0.5, num_gpus=1, accelerator_type="L4", node_labels={"outrider/group": "drafters"})
    assert replica.bundles == ({"CPU": 0.5, "GPU": 1},)
    assert replica.serve_options() == {
        "ray_actor_options": {
            "num_cpus": 0.5,
            "num_gpus": 1,
            "label_selector": {"outrider/group": "drafters", ACCELERATOR_LABEL: "L4"},
        }
    }


def test_a_tensor_parallel_replica_schedules_without_a_gpu_and_its_ranks_stay_together() -> None:
    options = Replica(num_cpus=2, num_gpus=1, num_ranks=4, accelerator_type="in(H100, H200)").serve_options()
    assert options["ray_actor_options"] == {"num_cpus": 2, "num_gpus": 0.0}
    assert options["placement_group_bundles"] == [{"CPU": 2}, *[{"CPU": 2, "GPU": 1}] * 4]
    assert options["placement_group_strategy"] == "STRICT_PACK"
    assert options["placement_group_bundle_label_selector"] == [{ACCELERATOR_LABEL: "in(H100, H200)"}]


@pytest.mark.parametrize(
    "replica",
    [
        Replica(num_cpus=0.1),
        Replica(num_cpus=0.1, num_gpus=0.25, accelerator_type="!T4", node_labels={"a/b": "!in(x, y)"}),
        Replica(num_cpus=1, num_gpus=1, num_ranks=2, node_labels={"outrider/group": "verifiers"}),
    ],
)
def test_serve_takes_the_options(replica: Replica) -> None:
    decorate = ray_module("ray.serve").deployment(**replica.serve_options())
    assert decorate(type("Anything", (), {})).num_replicas == 1


@pytest.mark.parametrize(
    ("wanted", "value", "is_selected"),
    [
        ("L4", "L4", True),
        ("L4", "T4", False),
        ("L4", None, False),
        ("!L4", "T4", True),
        ("!L4", None, True),
        ("!L4", "L4", False),
        ("in(H100, H200)", "H200", True),
        ("in(H100,H200)", "H100", True),
        ("in(H100, H200)", "H20", False),
        ("in(H100, H200)", None, False),
        ("!in(H100, H200)", "L4", True),
        ("!in(H100, H200)", "H100", False),
    ],
)
def test_a_selector_reads_as_ray_reads_it(wanted: str, value: str | None, is_selected: bool) -> None:
    assert selects(wanted, value) is is_selected


@pytest.mark.parametrize(
    ("replica", "node", "num"),
    [
        (Replica(num_cpus=1, num_gpus=1, accelerator_type="L4"), L4, 1),
        (Replica(num_cpus=1, num_gpus=1, accelerator_type="H100"), L4, 0),
        (Replica(num_cpus=1, num_gpus=0.25), L4, 4),
        (Replica(num_cpus=1, num_gpus=0.3), H100, 24),
        (Replica(num_cpus=0.1), L4, 80),
        (Replica(num_cpus=4, num_gpus=1, num_ranks=4), H100, 2),
        (Replica(num_cpus=10, num_gpus=1, num_ranks=4), H100, 1),
        (Replica(num_cpus=4, num_gpus=2), H100, 4),
        (Replica(num_cpus=4, num_gpus=1, num_ranks=16), H100, 0),
        (Replica(num_cpus=1, node_labels={"outrider/group": "control"}), L4, 0),
    ],
)
def test_how_many_replicas_a_node_holds(replica: Replica, node: Node, num: int) -> None:
    assert node.num_replicas(replica) == num
