"""The configurations in k8s/ are ours and Ray Serve's: what the overlays deploy is what `outrider config` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.cli import config_cmd
from deployments.cli.main import main
from deployments.config import ConfigError, load, parse
from deployments.live_config import config_of
from tests.support.ray_modules import ray_module

OVERLAYS = Path(__file__).resolve().parents[2] / "k8s" / "overlays"
FOLDERS = sorted(path.parent for path in OVERLAYS.glob("*/outrider.yaml"))
GEMMAS = {"gemma4-31b": "31B", "gemma4-26b-a4b": "26B-A4B", "gemma4-e4b": "E4B"}


def deployable(fields: Any) -> Any:
    """What Ray Serve makes of it; ValidationError if it would refuse it."""
    return ray_module("ray.serve.schema").ServeDeploySchema.model_validate(fields)


@pytest.fixture(params=FOLDERS, ids=lambda folder: str(folder.name))
def folder(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_there_is_one_per_overlay() -> None:
    assert {folder.name for folder in FOLDERS} == {"cpu-smoke", *GEMMAS}


def test_it_is_what_the_command_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--elsewhere", str(folder / "outrider.yaml")]) == 0
    assert (folder / "serve.yaml").read_text() == capsys.readouterr().out


def test_serve_and_our_own_tree_take_it(folder: Path) -> None:
    fields = yaml.safe_load((folder / "serve.yaml").read_text())
    (application,) = deployable(fields).applications
    config = config_of(application.model_dump(exclude_unset=True))
    assert config == load(folder / "outrider.yaml")
    assert config_cmd.to_serve_config(config) == fields
    # Pods are reached from other machines.
    assert (config.ingress.host, config.streams.host) == ("0.0.0.0", "node")


@pytest.mark.parametrize("name", GEMMAS)
def test_the_examples_carry_the_real_names(name: str) -> None:
    model = load(OVERLAYS / name / "outrider.yaml").model
    assert model.model_id == f"google/gemma-4-{GEMMAS[name]}-it"
    assert model.model_source == f"/models/{model.model_id}"
    assert model.assistant_source == f"{model.model_source}-assistant"


def test_sizes_that_the_models_allow() -> None:
    ranks = {name: load(OVERLAYS / name / "outrider.yaml").verifier.num_ranks for name in GEMMAS}
    assert ranks == {"gemma4-31b": 4, "gemma4-26b-a4b": 2, "gemma4-e4b": 1}
    shared = load(OVERLAYS / "gemma4-e4b" / "outrider.yaml")
    assert shared.verifier.num_gpus + shared.drafter.num_gpus <= 1
    assert (shared.verifier.max_gpu_bytes or 0) + (shared.drafter.max_gpu_bytes or 0) <= 42 << 30


def test_broken_ones_are_refused() -> None:
    fields = yaml.safe_load((OVERLAYS / "cpu-smoke" / "serve.yaml").read_text())
    with pytest.raises(ConfigError, match="verifer"):
        parse({**fields["applications"][0]["args"], "verifer": {}})
    with pytest.raises(ValueError, match="proxy_location"):
        deployable({**fields, "proxy_location": "Everywhere"})
    with pytest.raises(ValueError, match="import_path"):
        deployable({**fields, "applications": [{**fields["applications"][0], "import_path": "deployments"}]})
