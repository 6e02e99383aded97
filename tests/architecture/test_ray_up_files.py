"""cluster/aws.yaml and gcp.yaml: Ray's own schema takes them, and their machines hold the roles that they serve."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.resources import GROUP_LABEL, Node, unplaced
from deployments.config import load
from deployments.roles import replica_of, roles_of
from tests.support.ray_modules import ray_module

ROOT = Path(__file__).resolve().parents[2]
OVERLAY = ROOT / "k8s" / "overlays" / "gemma4-31b"


@pytest.fixture(params=["aws", "gcp"])
def fields(request: pytest.FixtureRequest) -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "cluster" / f"{request.param}.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def validate(fields: dict[str, Any]) -> None:
    """What `ray up` does first: fill in the cloud's defaults, then check against ray-schema.json."""
    util = ray_module("ray.autoscaler._private.util")
    util.validate_config(util.prepare_config(copy.deepcopy(fields)))


def nodes_of(fields: dict[str, Any], size: str) -> list[Node]:
    """The workers, at their smallest ("min_workers") or largest number."""
    kinds = [kind for name, kind in fields["available_node_types"].items() if name != fields["head_node_type"]]
    return [
        Node(resources=kind["resources"], labels=kind["labels"]) for kind in kinds for _ in range(kind.get(size, 0))
    ]


def test_rays_schema_takes_it(fields: dict[str, Any]) -> None:
    validate(fields)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.update(max_worker=3), "max_worker"),
        (lambda f: f["available_node_types"]["drafters"].update(label={}), "label"),
        (lambda f: f["available_node_types"]["drafters"]["resources"].update(CPU="many"), "many"),
        (lambda f: f.update(head_node_type="master"), "head_node_type"),
        (lambda f: f.update(max_workers=1), "max_workers"),
    ],
)
def test_a_broken_one_is_refused(fields: dict[str, Any], change: Any, said: str) -> None:
    change(fields)
    with pytest.raises(Exception, match=said):
        validate(fields)


def test_the_machines_hold_the_roles(fields: dict[str, Any]) -> None:
    config = load(OVERLAY / "outrider.yaml")
    wanted = {name: (replica_of(role), role.num_replicas) for name, role in roles_of(config).items()}
    assert unplaced(wanted, nodes_of(fields, "min_workers")) == {}
    assert unplaced(
        wanted, [node for node in nodes_of(fields, "min_workers") if "verifiers" not in node.labels.values()]
    )
    most = sum(kind.get("max_workers", 0) for kind in fields["available_node_types"].values())
    assert most == fields["max_workers"]


def test_groups_and_files_are_those_of_the_manifests(fields: dict[str, Any]) -> None:
    for name, kind in fields["available_node_types"].items():
        assert kind["labels"][GROUP_LABEL] == name
    head = fields["available_node_types"][fields["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    for mounted in fields["file_mounts"].values():
        if not mounted.startswith(("~", "dist")):
            assert (ROOT / mounted).is_file()
    config = load(OVERLAY / "outrider.yaml")
    setup = "\n".join(fields["setup_commands"])
    for source in (config.model.model_source, config.model.assistant_source):
        assert f"{Path(source).relative_to('/models')}" in setup
    assert config.streams.tls.files is not None
    for file in (*config.streams.tls.files, Path(str(config.ingress.keys_file))):
        assert str(file.parent) in setup
    assert "streams/ca.key" in fields["rsync_exclude"]


def test_every_node_has_haproxy_with_our_refusals(fields: dict[str, Any]) -> None:
    starts = [*fields["head_start_ray_commands"], *fields["worker_start_ray_commands"]]
    for command in (command for command in starts if "ray start" in command):
        assert "RAY_SERVE_ENABLE_HA_PROXY=1" in command
        assert "RAY_SERVE_HAPROXY_BINARY_PATH=$(command -v outrider-haproxy) " in command


def test_every_node_asks_for_rays_token(fields: dict[str, Any]) -> None:
    starts = [*fields["head_start_ray_commands"], *fields["worker_start_ray_commands"]]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert "~/.ray/auth_token" in fields["file_mounts"]
