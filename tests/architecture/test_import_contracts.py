"""The import contracts of .importlinter hold, and would notice if they did not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("deployments", "cluster", "autoscaling", "evaluation")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts on the packages in `folder`, whatever is installed."""
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", script, "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the sources to break, without the models' weights."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=lambda folder, names: [n for n in names if _is_dead_weight(folder, n)],
        )
    shutil.copy(ROOT / ".importlinter", tmp_path)
    return tmp_path


def _is_dead_weight(folder: str, name: str) -> bool:
    return name == "__pycache__" or ((Path(folder) / name).is_file() and not name.endswith(".py"))


def test_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("deployments/policy/intruder.py", "import torch"),
        ("deployments/policy/intruder.py", "import deployments.router"),
        ("deployments/router/intruder.py", "from torch import Tensor"),
        ("deployments/router/intruder.py", "import deployments.verifier"),
        ("deployments/ingress/intruder.py", "import torch"),
        ("deployments/drafter/intruder.py", "from ray import serve"),
        ("deployments/drafter/intruder.py", "import deployments.app"),
        ("deployments/decoding/intruder.py", "import deployments.verifier"),
        ("deployments/models/intruder.py", "import evaluation"),
        ("deployments/verifier/intruder.py", "import deployments.verifier.deployment"),
        ("cluster/intruder.py", "import deployments.config"),
        ("autoscaling/intruder.py", "import deployments.router"),
        ("evaluation/intruder.py", "import ray"),
    ],
)
def test_a_forbidden_import_is_noticed(house: Path, module: str, line: str) -> None:
    (house / module).write_text(f'"""Does what no module here may."""\n\n{line}\n')
    result = lint_imports(house)
    assert result.returncode == 1, result.stdout + result.stderr
    assert module.removesuffix(".py").replace("/", ".") in result.stdout, result.stdout
