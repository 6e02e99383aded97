"""The import contracts of .importlinter hold, and would notice if they did not."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("deployments", "cluster", "autoscaling", "evaluation")
FORBIDDEN = [
    ("deployments.policy", "torch"),
    ("deployments.policy", "pydantic"),
    ("deployments.policy", "deployments.router"),
    ("deployments.router", "torch"),
    ("deployments.router", "deployments.verifier"),
    ("deployments.ingress", "torch"),
    ("deployments.drafter", "ray"),
    ("deployments.drafter", "deployments.app"),
    ("deployments.decoding", "deployments.verifier"),
    ("deployments.models", "evaluation"),
    ("deployments.verifier", "deployments.verifier.deployment"),
    ("cluster", "deployments.config"),
    ("autoscaling", "deployments.router"),
    ("evaluation", "ray"),
]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts on the packages in `folder`, whatever is installed."""
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", script, "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def intruder(index: int) -> str:
    return f"intruder_{index}"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the contracts say about a copy of the sources with one forbidden import per intruder."""
    house = tmp_path_factory.mktemp("house")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, house / package, ignore=lambda _, names: [n for n in names if _is_weight(n)])
    shutil.copy(ROOT / ".importlinter", house)
    for index, (package, imported) in enumerate(FORBIDDEN):
        source = f'"""Imports what it may not."""\n\nimport {imported}\n'
        (house / package.replace(".", "/") / f"{intruder(index)}.py").write_text(source)
    result = lint_imports(house)
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout


def _is_weight(name: str) -> bool:
    return name == "__pycache__" or name.endswith((".safetensors", ".json", ".jinja", ".html"))


def test_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


@pytest.mark.parametrize(("index", "package", "imported"), [(i, *pair) for i, pair in enumerate(FORBIDDEN)])
def test_a_forbidden_import_is_noticed(report: str, index: int, package: str, imported: str) -> None:
    chain = rf"^-\s+{re.escape(package)}\.{intruder(index)} -> {re.escape(imported)} "
    assert re.search(chain, report, flags=re.MULTILINE), report


def test_an_allowed_import_is_not(report: str) -> None:
    assert "deployments.cli.bench -> evaluation" not in report
