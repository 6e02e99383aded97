"""What the manifests promise an operator: drains that wait long enough, closed ports, groups that hold their roles."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml

from cluster.resources import ACCELERATOR_LABEL, GROUP_LABEL, GROUP_OF_ROLE, Node
from deployments import live_config
from deployments.config import OutriderConfig, RoleConfig
from deployments.roles import replica_of, roles_of
from tests.k8s.conftest import rendered
from tests.support.manifests import Manifest, groups, lets_through, of_kind, pod_templates, ray_service

pytestmark = pytest.mark.system


def config_of(service: Manifest) -> OutriderConfig:
    return live_config.config_of(yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0])


def node_of(group: Manifest) -> Node:
    """A pod of the group as Ray will see it: KubeRay passes a container's limits on."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    resources = {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}
    return Node(resources=resources, labels=group["labels"])


def misfits(service: Manifest) -> list[str]:
    """Roles whose replicas the groups cannot hold, alone or all together at their smallest and largest size."""
    config, found = config_of(service), []
    by_group: dict[str, list[tuple[str, RoleConfig]]] = {}
    for name, role in roles_of(config).items():
        homes = [group for group in groups(service).values() if node_of(group).num_replicas(replica_of(role))]
        if len(homes) != 1:
            found.append(f"{name}: fits groups {[group['groupName'] for group in homes]}, not one")
            continue
        by_group.setdefault(homes[0]["groupName"], []).append((name, role))
    for name, members in by_group.items():
        group = groups(service)[name]
        sizes = {
            "replicas": {role_name: role.num_replicas for role_name, role in members},
            "maxReplicas": {role_name: config.most_replicas(role_name, role) for role_name, role in members},
        }
        for size, counts in sizes.items():
            found += overfull(group, size, members, counts)
    return found


def overfull(group: Manifest, size: str, members: list[tuple[str, RoleConfig]], counts: dict[str, int]) -> list[str]:
    """Resources of which a group of this size has too few for so many replicas of its roles."""
    node, taken = node_of(group), {"CPU": 0.0, "GPU": 0.0}
    for name, role in members:
        for bundle in replica_of(role).bundles:
            for resource, amount in bundle.items():
                taken[resource] += amount * counts[name]
    return [
        f"{group['groupName']}: {amount} {resource} on {group[size]} pods of {node.resources}, by {size}"
        for resource, amount in taken.items()
        if amount > node.resources[resource] * group[size] + 1e-9
    ]


def test_each_role_fits_one_group_and_the_group_holds_its_replicas(manifests: list[Manifest]) -> None:
    assert misfits(ray_service(manifests)) == []


def test_a_role_on_its_own_machines_is_on_the_group_of_its_role(overlay: str, manifests: list[Manifest]) -> None:
    shared = {"drafter": "verifiers"} if overlay == "gemma4-e4b" else {}
    for name, role in roles_of(config_of(ray_service(manifests))).items():
        assert role.node_labels == {GROUP_LABEL: {**GROUP_OF_ROLE, **shared}[name]}


def test_a_group_with_no_room_for_what_autoscaling_may_ask_for_is_found() -> None:
    service = copy.deepcopy(ray_service(rendered("gemma4-31b")))
    groups(service)["verifiers"]["maxReplicas"] = 3
    assert [line for line in misfits(service) if line.startswith("verifiers: 16.0 GPU on 3 pods")]


@pytest.mark.parametrize("change", ["label", "gpu", "cpu", "accelerator"])
def test_a_group_that_does_not_hold_its_role_is_found(change: str) -> None:
    service = copy.deepcopy(ray_service(rendered("gemma4-31b")))
    group = groups(service)["verifiers"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    if change == "label":
        group["labels"][GROUP_LABEL] = "verifier"
    elif change == "accelerator":
        group["labels"][ACCELERATOR_LABEL] = "A100"
    else:
        limits[{"gpu": "nvidia.com/gpu", "cpu": "cpu"}[change]] = 3
    assert [problem for problem in misfits(service) if problem.startswith("verifier")]


def test_groups_name_themselves_the_same_everywhere(manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    for name, group in groups(service).items():
        assert group["labels"][GROUP_LABEL] == name
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for name, template in pod_templates(service).items():
        assert template["metadata"]["labels"]["app.kubernetes.io/component"] == name
        resources = template["spec"]["containers"][0]["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"], name


def test_the_head_computes_nothing(manifests: list[Manifest]) -> None:
    head = ray_service(manifests)["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert (head["rayStartParams"]["num-cpus"], head["rayStartParams"]["num-gpus"]) == ("0", "0")
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]


# -- Draining -----------------------------------------------------------------------------------


def drain_timeout_s(pod: Manifest) -> float:
    environment = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    return float(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])


def test_every_drain_waits_longer_than_the_longest_request(manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    config = config_of(service)
    for name, role in roles_of(config).items():
        group = groups(service)[role.node_labels[GROUP_LABEL]]
        pod = group["template"]["spec"]
        # A session survives its drafter: a drafter need not wait for requests, but must be gone in order.
        longest_s = 0.0 if name == "drafter" else config.ingress.max_request_s
        times = (
            longest_s,
            role.drain_s,
            drain_timeout_s(pod),
            pod["terminationGracePeriodSeconds"],
        )
        assert list(times) == sorted(set(times)), f"{name}: {times}"
    assert service["spec"]["rayClusterDeletionDelaySeconds"] > config.ingress.max_request_s


def test_every_node_has_haproxy_and_a_reload_cuts_no_request(manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    cluster = service["spec"]["rayClusterConfig"]
    templates = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    for template in templates:
        environment = {entry["name"]: entry.get("value") for entry in template["spec"]["containers"][0]["env"]}
        assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        # Where the image's Python puts its commands; test_image_install.py finds it among them.
        assert environment["RAY_SERVE_HAPROXY_BINARY_PATH"] == "/usr/local/bin/outrider-haproxy"
        assert float(environment["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > config_of(service).ingress.max_request_s


def test_spot_drafters_are_gone_before_their_machine_is(overlay: str, manifests: list[Manifest]) -> None:
    spot = [group for group in groups(ray_service(manifests)).values() if group["labels"].get("ray.io/market-type")]
    assert [group["groupName"] for group in spot] == (["drafters"] if overlay != "gemma4-e4b" else [])
    for group in spot:
        pod = group["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] <= 15  # what GKE leaves of a spot machine's 30 s; AWS has 120
        # No client may connect through a machine that goes within seconds.
        assert pod["containers"][0]["readinessProbe"]["exec"]["command"] == ["false"]
        keys = {toleration["key"] for toleration in pod["tolerations"]}
        assert keys >= {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"}


def test_starting_may_take_as_long_as_download_and_loading_do(overlay: str, manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    timeout = service["metadata"]["annotations"]["ray.io/initializing-timeout"]
    assert timeout.endswith("m")
    waits_s = [int(found) for found in re.findall(r"SECONDS\" -gt (\d+)", str(pod_templates(service)))]
    assert bool(waits_s) is (overlay != "cpu-smoke")
    for job in of_kind(manifests, "Job"):
        assert {job["spec"]["activeDeadlineSeconds"]} == set(waits_s)
    assert int(timeout.removesuffix("m")) * 60 >= max(waits_s, default=0) + 15 * 60
    for name, template in pod_templates(service).items():
        container = template["spec"]["containers"][0]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), name
        # Probes ask ports that Ray really has; the readiness of a worker is that of its Serve proxy.
        if name != "drafters":
            assert container["readinessProbe"]["httpGet"]["port"] == (8265 if name == "head" else 8000)


def test_disruption_budgets_can_be_kept(manifests: list[Manifest]) -> None:
    service = ray_service(manifests)
    budgets = of_kind(manifests, "PodDisruptionBudget")
    kept = {b["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"] for b in budgets}
    assert kept == set(groups(service)) - {"drafters"}  # without those the service answers the same, slower
    for budget in budgets:
        # A RayCluster has no scale subresource: Kubernetes takes whole numbers of minAvailable only.
        assert "maxUnavailable" not in budget["spec"]
        least = budget["spec"]["minAvailable"]
        component = budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
        assert type(least) is int
        assert 1 <= least <= groups(service)[component]["minReplicas"]


# -- Closed ports -------------------------------------------------------------------------------


def peer(namespace: str, **labels: str) -> dict[str, Any]:
    names = {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()}
    return {"namespace": namespace, "namespace_labels": {"kubernetes.io/metadata.name": namespace}, "labels": names}


STRANGER = peer("outrider", app="something")
CLIENT = peer("shop", app="frontend")
PROMETHEUS = peer("monitoring", app_kubernetes_io__name="prometheus")
OPERATOR = peer("kuberay", app_kubernetes_io__name="kuberay-operator")
RAY_PORTS = [6379, 8265, 10001, 52365, 8080, 10002, 19999]


def test_ports_are_closed_to_all_but_the_service_itself(manifests: list[Manifest]) -> None:
    policies, service = of_kind(manifests, "NetworkPolicy"), ray_service(manifests)
    first, last = config_of(service).streams.port_range
    pods = [peer("outrider") | {"labels": t["metadata"]["labels"]} for t in pod_templates(service).values()]
    for pod in pods:
        for port in (*RAY_PORTS, first, (first + last) // 2, last):
            assert not lets_through(policies, pod, STRANGER, port), port
            assert not lets_through(policies, pod, CLIENT, port), port
            assert all(lets_through(policies, pod, other, port) for other in pods), port
        # The API asks for a key itself.
        assert lets_through(policies, pod, CLIENT, config_of(service).ingress.port)
        assert lets_through(policies, pod, PROMETHEUS, 8080)
        assert not lets_through(policies, pod, PROMETHEUS, 8265)
        assert lets_through(policies, pod, OPERATOR, 8265)
        assert not lets_through(policies, pod, OPERATOR, first)


def test_redis_is_for_the_head_alone(manifests: list[Manifest]) -> None:
    policies, service = of_kind(manifests, "NetworkPolicy"), ray_service(manifests)
    redis = peer("outrider", app_kubernetes_io__name="outrider-redis")
    for name, template in pod_templates(service).items():
        pod = peer("outrider") | {"labels": template["metadata"]["labels"]}
        assert lets_through(policies, redis, pod, 6379) is (name == "head")
    assert not lets_through(policies, redis, STRANGER, 6379)


def test_a_rule_too_many_would_be_noticed() -> None:
    policies = copy.deepcopy(of_kind(rendered("cpu-smoke"), "NetworkPolicy"))
    pod = peer("outrider", app_kubernetes_io__name="outrider")
    assert not lets_through(policies, pod, STRANGER, 23_700)
    policies[0]["spec"]["ingress"].append({"ports": [{"port": 23_700}]})
    assert lets_through(policies, pod, STRANGER, 23_700)
    assert lets_through([], pod, STRANGER, 6379)


def test_metrics_are_found() -> None:
    manifests = rendered("gemma4-31b")
    (monitor,) = of_kind(manifests, "PodMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for template in pod_templates(ray_service(manifests)).values():
        assert wanted.items() <= template["metadata"]["labels"].items()
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        assert ports[endpoint["port"]] == 8080
