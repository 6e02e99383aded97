"""The image's install steps, in an empty virtual environment: what comes out works on its own."""

from __future__ import annotations

import faulthandler
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.ports import free_ports
from tests.support.wheel import build_wheel

pytestmark = pytest.mark.system

K8S = Path(__file__).resolve().parents[2] / "k8s"
TIMEOUT_S = 1500.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A virtual environment with nothing but what k8s/install.sh put into it, first on the PATH."""
    # pip may be at it for longer than a test may be silent; the deadline below is its own.
    faulthandler.cancel_dump_traceback_later()
    folder = tmp_path_factory.mktemp("image")
    wheel = build_wheel(folder)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=TIMEOUT_S)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment = kept | {"PATH": f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}", "HOME": str(folder)}
    command = ["bash", str(K8S / "install.sh"), str(wheel), "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return environment


def run(environment: dict[str, str], *command: str) -> str:
    # Not in the checkout: its packages would be imported instead.
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, check=False, cwd=environment["HOME"]
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_doctor_finds_nothing_wrong(environment: dict[str, str]) -> None:
    config = Path(environment["HOME"]) / "c.yaml"
    config.write_text(f"ingress: {{port: {free_ports(1)[0]}}}\nstreams: {{port_range: [23500, 23599]}}\n")
    assert "nothing stands in the way" in run(environment, "outrider", "doctor", str(config))


def test_it_has_what_the_manifests_call(environment: dict[str, str]) -> None:
    assert "import_path: deployments.app:build" in run(environment, "outrider", "config")
    assert "--local-dir" in run(environment, "hf", "download", "--help")
    assert "--block" in run(environment, "ray", "start", "--help")
    (starter,) = (Path(environment["HOME"]) / "venv" / "bin").glob("outrider-haproxy")
    assert "HAProxy version" in run(environment, str(starter), "-v")
    # The autoscaler beside the head, and Ray's dashboard, want more than Serve does.
    for module in (
        "ray.autoscaler._private.kuberay.run_autoscaler",
        "ray.autoscaler.v2.instance_manager.cloud_providers.kuberay.cloud_provider",
        "ray.dashboard.http_server_head",
    ):
        run(environment, "python", "-W", "ignore", "-c", f"import {module}")
    # As KubeRay's Serve would import it.
    run(environment, "python", "-W", "ignore", "-c", "import deployments.app; deployments.app.build({})")


def test_the_releases_are_those_that_are_pinned(environment: dict[str, str]) -> None:
    pinned = dict(re.findall(r"^([a-z]+)==(.+)$", (K8S / "constraints.txt").read_text(), flags=re.MULTILINE))
    assert set(pinned) == {"ray", "torch", "transformers"}
    for name, version in pinned.items():
        found = run(environment, "python", "-c", f"from importlib.metadata import version; print(version({name!r}))")
        assert found.strip().partition("+")[0] == version
    service = yaml.safe_load((K8S / "base" / "rayservice.yaml").read_text())
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == pinned["ray"]


def test_the_dockerfile_runs_these_steps() -> None:
    text = (K8S / "Dockerfile").read_text()
    assert 'RUN bash /install/install.sh /wheels/outrider-*.whl "$ACCELERATOR"' in text
    assert "COPY k8s/install.sh k8s/constraints.txt /install/" in text
    ignored = (K8S.parent / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE):
        for source in line.split():
            assert f"!{source}" in ignored
            assert (K8S.parent / source).exists()


def test_an_unknown_accelerator_is_refused() -> None:
    done = subprocess.run(
        ["bash", str(K8S / "install.sh"), "x.whl", "tpu"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "cpu or cuda, not 'tpu'" in done.stderr) == (2, True)
