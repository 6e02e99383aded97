"""k8s/monitoring by itself, as somebody adds it to manifests of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from deployments.monitoring import dashboard, rules
from tests.k8s.conftest import rendered
from tests.support.manifests import K8S, OVERLAYS, Manifest, of_kind, pod_templates, problem_of, ray_service, render

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def component(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """By kind, rendered from a folder that has nothing else."""
    folder = tmp_path_factory.mktemp("own")
    where = os.path.relpath(K8S / "monitoring", folder.resolve())
    content = {"kind": "Kustomization", "namespace": "elsewhere", "components": [where]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    made = render(folder)
    assert len({manifest["kind"] for manifest in made}) == len(made)
    return {manifest["kind"]: manifest for manifest in made}


def test_it_is_whole_and_nothing_of_it_would_be_refused(component: dict[str, Manifest]) -> None:
    assert set(component) == {"PodMonitor", "PrometheusRule", "ConfigMap"}
    assert {kind: problem_of(manifest) for kind, manifest in component.items()} == dict.fromkeys(component)
    assert {manifest["metadata"]["namespace"] for manifest in component.values()} == {"elsewhere"}


def test_rules_and_dashboard_are_what_the_code_builds(component: dict[str, Manifest]) -> None:
    assert component["PrometheusRule"]["spec"] == rules.build()
    found = component["ConfigMap"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text) for name, text in found["data"].items()} == {"dashboard.json": dashboard.build()}


def test_a_config_map_is_not_larger_than_the_api_server_takes(component: dict[str, Manifest]) -> None:
    assert len(json.dumps(component["ConfigMap"])) < 1 << 20


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_of_every_overlay_is_scraped_where_it_exports(component: dict[str, Manifest], overlay: str) -> None:
    (endpoint,) = component["PodMonitor"]["spec"]["podMetricsEndpoints"]
    wanted = component["PodMonitor"]["spec"]["selector"]["matchLabels"]
    for name, template in pod_templates(ray_service(rendered(overlay))).items():
        assert wanted.items() <= template["metadata"]["labels"].items(), name
        ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
        assert endpoint["port"] in ports, name


def test_every_overlay_has_it_but_the_one_for_a_cluster_without_the_operator() -> None:
    for overlay in OVERLAYS:
        assert bool(of_kind(rendered(overlay), "PodMonitor")) is (overlay != "cpu-smoke")
        text = Path(K8S / "overlays" / overlay / "kustomization.yaml").read_text()
        assert ("../../monitoring" in text) is (overlay != "cpu-smoke")
