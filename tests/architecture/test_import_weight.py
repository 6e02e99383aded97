"""What importing a module drags in, seen from a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def modules_of(package: str) -> list[str]:
    """Every module of a package but its deployment.py, which is where ray begins."""
    files = sorted((ROOT / package.replace(".", "/")).glob("*.py"))
    return [f"{package}.{file.stem}" for file in files if file.stem not in ("__init__", "deployment")]


def run(script: str) -> str:
    """Run a script in a fresh interpreter and return what it printed."""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def loaded_after(module: str) -> set[str]:
    """Names of the top-level packages that importing `module` loads."""
    return set(run(f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})").split())


@pytest.mark.parametrize(
    "module",
    [
        "deployments.policy",
        "deployments.policy.lookahead",
        "deployments.router",
        "deployments.router.service",
    ],
)
def test_control_plane_needs_neither_torch_nor_ray(module: str) -> None:
    assert loaded_after(module).isdisjoint({"torch", "ray", "transformers"})


@pytest.mark.parametrize(
    "module", ["deployments.messages", "deployments.records", "deployments.link", "deployments.config"]
)
def test_what_everything_imports_needs_no_numpy_either(module: str) -> None:
    assert loaded_after(module).isdisjoint({"torch", "ray", "transformers", "numpy"})


def test_the_command_starts_light() -> None:
    # `outrider --help` must not wait seconds for torch and ray.
    assert loaded_after("deployments.cli.main").isdisjoint({"torch", "ray", "transformers"})


def test_the_probe_notices_numpy() -> None:
    assert "numpy" in loaded_after("numpy")


BLOCK_RAY = """
import importlib.abc, sys
class NoRay(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'ray':
            raise ModuleNotFoundError(f'{name} is not installed on this machine', name=name)
sys.meta_path.insert(0, NoRay())
"""


def test_engines_and_services_import_on_a_machine_without_ray() -> None:
    rooms = ["decoding", "models", "verifier", "drafter", "router", "ingress"]
    modules = [module for room in rooms for module in modules_of(f"deployments.{room}")]
    assert len(modules) > 30
    run(f"{BLOCK_RAY}\nimport {', '.join(modules)}")


def test_the_blocker_blocks() -> None:
    outcome = run(f"{BLOCK_RAY}\ntry:\n    import ray.serve\nexcept ModuleNotFoundError:\n    print('blocked')")
    assert outcome == "blocked"
