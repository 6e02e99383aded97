"""The wheel holds what the command needs when it is installed without the repository."""

import zipfile

import pytest

from tests.support.wheel import build_wheel


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What a release's wheel holds."""
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.system
@pytest.mark.parametrize(
    "name",
    [
        "deployments/cli/main.py",
        "deployments/models/pocket/target/model.safetensors",
        "deployments/models/pocket/target/tokenizer.json",
        "deployments/models/pocket/assistant/model.safetensors",
        "deployments/models/pocket/draft_model/model.safetensors",
        "evaluation/load/bench.py",
    ],
)
def test_wheel_contains(wheel_names: set[str], name: str) -> None:
    assert name in wheel_names


@pytest.mark.system
def test_wheel_contains_the_page(wheel_names: set[str]) -> None:
    assert any(name.startswith("deployments/ingress/") and name.endswith(".html") for name in wheel_names)


@pytest.mark.system
def test_wheel_contains_no_tests(wheel_names: set[str]) -> None:
    assert not any(name.startswith(("tests/", "docs/")) for name in wheel_names)
