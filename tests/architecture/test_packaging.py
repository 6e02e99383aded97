"""The wheel holds what the command needs when it is installed without the repository."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the wheel from the tracked files, as a release would, and list its content."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(folder / "source")]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("outrider-*.whl")
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
