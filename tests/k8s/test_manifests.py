"""Every overlay renders, and neither the API server nor KubeRay would refuse any of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.k8s.conftest import rendered
from tests.support.manifests import (
    K8S,
    Manifest,
    of_kind,
    operator_problem,
    pod_templates,
    problem_of,
    ray_service,
    render,
)

pytestmark = pytest.mark.system

EVERYWHERE = {"RayService": 1, "StatefulSet": 1, "Service": 1, "NetworkPolicy": 2}


def test_every_part_is_there(overlay: str, manifests: list[Manifest]) -> None:
    expected = {**EVERYWHERE, "PodDisruptionBudget": 2}
    if overlay != "cpu-smoke":
        expected |= {"PersistentVolumeClaim": 1, "Job": 1, "ConfigMap": 2, "PodMonitor": 1, "PrometheusRule": 1}
    assert {kind: len(of_kind(manifests, kind)) for kind in {m["kind"] for m in manifests}} == expected
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"outrider"}


def test_kubernetes_would_take_all_but_the_rayservice(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] != "RayService":
            assert problem_of(manifest) is None, manifest["metadata"]["name"]


@pytest.mark.usefixtures("crd")
def test_the_crd_would_take_the_rayservice(manifests: list[Manifest]) -> None:
    assert problem_of(ray_service(manifests)) is None


def test_the_operator_would_take_the_rayservice(manifests: list[Manifest]) -> None:
    assert operator_problem(ray_service(manifests)) is None


def set_in(manifest: Manifest, path: str, value: Any) -> None:
    *parents, last = path.split("/")
    inner: Any = manifest
    for part in parents:
        inner = inner[int(part) if isinstance(inner, list) else part]
    inner[last.replace("~", "/")] = value


BROKEN_SERVICES = [
    ("spec/serveConfig", {}, "serveConfig"),
    ("spec/rayClusterConfig/rayVerson", "2.60.0", "rayVerson"),
    ("spec/rayClusterConfig/authOptions/mode", "tokens", "tokens"),
    ("spec/rayClusterConfig/workerGroupSpecs/1/minReplicas", "one", "one"),
    ("spec/rayClusterConfig/workerGroupSpecs/1/template/spec/toleration", [], "toleration"),
    ("spec/rayClusterConfig/workerGroupSpecs/0/template/spec/containers/0/livenessProbe/httpGet/prot", 1, "prot"),
    ("spec/rayClusterConfig/headGroupSpec/template/spec/containers/0/name", None, "'name' is a required property"),
]
REFUSED_BY_THE_OPERATOR = [
    ("spec/upgradeStrategy/clusterUpgradeOptions/gatewayClassName", "", "gatewayClassName"),
    ("spec/rayClusterConfig/enableInTreeAutoscaling", False, "autoscaler"),
    ("spec/rayClusterConfig/rayVersion", "2.51.0", "2.52"),
    ("spec/rayClusterConfig/headGroupSpec/rayStartParams/labels", "a=b", "labels"),
    ("spec/rayClusterConfig/workerGroupSpecs/1/labels/out rider", "x", "no label"),
    ("spec/rayClusterConfig/workerGroupSpecs/1/labels/outrider~group", "in(a)", "no label's value"),
    ("spec/rayClusterConfig/workerGroupSpecs/0/template/spec/restartPolicy", "Always", "restartPolicy"),
    ("spec/rayClusterConfig/headGroupSpec/template/spec/containers/0/env/0/name", "REDIS_PASSWORD", "gcsFault"),
]


@pytest.mark.usefixtures("crd")
@pytest.mark.parametrize(("path", "value", "said"), BROKEN_SERVICES)
def test_the_crd_refuses_a_broken_rayservice(path: str, value: Any, said: str) -> None:
    broken = copy.deepcopy(ray_service(rendered("gemma4-31b")))
    set_in(broken, path, value)
    assert said in (problem_of(broken) or "")


@pytest.mark.parametrize(("path", "value", "said"), REFUSED_BY_THE_OPERATOR)
def test_the_operators_checks_find_what_it_refuses(path: str, value: Any, said: str) -> None:
    broken = copy.deepcopy(ray_service(rendered("gemma4-31b")))
    set_in(broken, path, value)
    assert said in (operator_problem(broken) or "")


@pytest.mark.parametrize(
    ("kind", "break_it"),
    [
        ("Job", lambda m: set_in(m, "spec/template/spec/containers/0/imagee", "x")),
        ("NetworkPolicy", lambda m: set_in(m, "spec/ingress/0/from", "everybody")),
        ("PodDisruptionBudget", lambda m: set_in(m, "spec/minAvailble", 1)),
        ("StatefulSet", lambda m: m["spec"].pop("selector")),
        ("PersistentVolumeClaim", lambda m: set_in(m, "spec/accessModes", "ReadWriteMany")),
        ("Service", lambda m: set_in(m, "apiVersion", "v2")),
        ("PodMonitor", lambda m: set_in(m, "spec/podMetricsEndpoints/0/intervall", "15s")),
        ("PrometheusRule", lambda m: set_in(m, "spec/groups/0/rules/0/exprs", "up")),
        ("PrometheusRule", lambda m: set_in(m, "spec/groups/0/rules/0/for", "soon")),
    ],
)
def test_the_schemas_refuse_a_broken_manifest(kind: str, break_it: Callable[[Manifest], Any]) -> None:
    broken = copy.deepcopy(of_kind(rendered("gemma4-31b"), kind)[0])
    assert problem_of(broken) is None
    break_it(broken)
    assert problem_of(broken) is not None


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The Secrets that k8s/secrets makes, and their keys, from files that README.md tells to write."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "kustomization.yaml").write_bytes((K8S / "secrets" / "kustomization.yaml").read_bytes())
    generators = yaml.safe_load((folder / "kustomization.yaml").read_text())["secretGenerator"]
    for entry in (entry for generator in generators for entry in generator["files"]):
        (folder / entry.rpartition("=")[2]).write_text("x")
    made = render(folder)
    assert [problem_of(secret) for secret in made] == [None] * len(made)
    return {secret["metadata"]["name"]: set(secret["data"]) for secret in made}


def test_every_secret_that_is_named_is_made_and_nothing_else(
    overlay: str, manifests: list[Manifest], secrets: dict[str, set[str]]
) -> None:
    named = {(ref["name"], ref["key"]) for ref in find(manifests, "secretKeyRef")}
    assert named
    for name, key in named:
        assert key in secrets[name]
    mounted = {volume["secretName"] for volume in find(manifests, "secret")}
    assert mounted <= set(secrets)
    if overlay != "cpu-smoke":
        assert mounted | {name for name, _ in named} == set(secrets)


def test_no_secret_is_in_the_repository() -> None:
    assert {path.name for path in (K8S / "secrets").iterdir() if path.suffix != ".example"} >= {"kustomization.yaml"}
    ignored = (K8S / "secrets" / ".gitignore").read_text().split()
    assert ignored == ["*", "!.gitignore", "!kustomization.yaml"]


def find(value: Any, name: str) -> list[Manifest]:
    """All objects under that field name, wherever they are."""
    if isinstance(value, list):
        return [found for part in value for found in find(part, name)]
    if not isinstance(value, dict):
        return []
    return [part for key, part in value.items() if key == name] + find(list(value.values()), name)


def test_every_volume_is_mounted_and_every_claim_exists(overlay: str, manifests: list[Manifest]) -> None:
    claims = {claim["metadata"]["name"] for claim in of_kind(manifests, "PersistentVolumeClaim")}
    for component, template in pod_templates(ray_service(manifests)).items():
        pod = template["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes, component
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes, component
    assert {claim["claimName"] for claim in find(manifests, "persistentVolumeClaim")} == claims
    assert bool(claims) is (overlay != "cpu-smoke")


def test_certificates_and_keys_are_mounted_where_the_configuration_has_them(
    overlay: str, manifests: list[Manifest], secrets: dict[str, set[str]]
) -> None:
    service = ray_service(manifests)
    streams = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["streams"]
    assert ("tls" in streams) is (overlay != "cpu-smoke")
    for name, template in pod_templates(service).items():
        mounts = {m["name"]: m["mountPath"] for m in template["spec"]["containers"][0]["volumeMounts"]}
        there = {f"{mounts.get('stream-certificates')}/{key}" for key in secrets["outrider-streams"]}
        if name != "head" and "tls" in streams:
            assert set(streams["tls"].values()) == there
        if name == "control" and "tls" in streams:
            keys_file = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["ingress"][
                "keys_file"
            ]
            assert {keys_file} == {f"{mounts['api-keys']}/{key}" for key in secrets["outrider-api-keys"]}


def test_the_models_of_the_job_are_those_that_are_served(manifests: list[Manifest]) -> None:
    serve = yaml.safe_load(ray_service(manifests)["spec"]["serveConfigV2"])
    model = serve["applications"][0]["args"].get("model")
    made = {m["metadata"]["name"]: m["data"] for m in of_kind(manifests, "ConfigMap")}
    assert ("outrider-models" in made) is (model is not None)
    if model:
        names = made["outrider-models"]
        sources = (model["model_source"], model["assistant_source"])
        assert sources == (f"/models/{names['TARGET']}", f"/models/{names['ASSISTANT']}")
        assert model["model_id"] == names["TARGET"]
