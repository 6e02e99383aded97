"""The shell in the manifests, run here: the download, the wait for it, and Redis' start."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import time
from importlib.resources import files
from pathlib import Path

import pytest

from tests.k8s.conftest import rendered
from tests.support.manifests import Manifest, of_kind, pod_templates, ray_service

pytestmark = pytest.mark.system

POCKET = Path(str(files("deployments.models"))) / "pocket"
TARGET, ASSISTANT = "google/gemma-4-E4B-it", "google/gemma-4-E4B-it-assistant"
HF = """#!/bin/bash
# Stands in for the hub's command: `hf download NAME --local-dir FOLDER` copies a pocket model.
echo "$2" >> {log}
mkdir -p "$4"
case $2 in *-assistant) cp {pocket}/assistant/* "$4" ;; *) cp {pocket}/target/* "$4" ;; esac
{and_then}
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def run(container: Manifest, volume: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A container's command on this machine, /models being the volume, with commands in volume/../bin before others."""
    command = [*container["command"], *(part.replace("/models", str(volume)) for part in container["args"])]
    path = f"{volume.parent / 'bin'}:{sysconfig.get_path('scripts')}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TARGET": TARGET, "ASSISTANT": ASSISTANT, **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def put(volume: Path, name: str, text: str) -> None:
    file = volume.parent / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def download(volume: Path, and_then: str = "") -> subprocess.CompletedProcess[str]:
    put(volume, "hf", HF.format(log=volume.parent / "log", pocket=POCKET, and_then=and_then))
    (job,) = of_kind(rendered("gemma4-e4b"), "Job")
    return run(job["spec"]["template"]["spec"]["containers"][0], volume)


def markers(volume: Path) -> set[str]:
    return {str(path.parent.relative_to(volume)) for path in volume.rglob(".complete")}


def test_the_job_downloads_checks_and_marks_once(volume: Path) -> None:
    first = download(volume)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "the assistant fits the target" in first.stdout
    assert markers(volume) == {TARGET, ASSISTANT}
    assert download(volume).returncode == 0
    assert (volume.parent / "log").read_text().split() == [TARGET, ASSISTANT]


@pytest.mark.parametrize("fault", ["exit 3", 'truncate -s 1000 "$4/model.safetensors"'])
def test_a_download_that_fails_or_is_cut_off_marks_nothing(volume: Path, fault: str) -> None:
    assert download(volume, fault).returncode != 0
    assert markers(volume) == set()


def test_pods_wait_for_both_marks(volume: Path) -> None:
    for template in pod_templates(ray_service(rendered("gemma4-e4b"))).values():
        (wait,) = template["spec"]["initContainers"]
        for name in (TARGET, ASSISTANT):
            (volume / name).mkdir(parents=True, exist_ok=True)
            (volume / name / ".complete").touch()
        begun_s = time.monotonic()
        assert run(wait, volume).returncode == 0
        assert time.monotonic() - begun_s < 4
        (volume / ASSISTANT / ".complete").unlink()
        # Bash counts SECONDS from what it is given: the two hours have passed already.
        late = run(wait, volume, SECONDS="7300")
        assert late.returncode == 1
        assert f"no {volume}/{ASSISTANT} after two hours: see the Job outrider-models" in late.stderr


def test_redis_gets_its_password_on_its_standard_input(volume: Path) -> None:
    put(volume, "redis-server", '#!/bin/sh\necho "arguments: $*"\ncat\n')
    (redis,) = of_kind(rendered("cpu-smoke"), "StatefulSet")
    started = run(redis["spec"]["template"]["spec"]["containers"][0], volume, REDIS_PASSWORD="s3cret")
    assert started.stdout.splitlines() == ["arguments: -", "requirepass s3cret", "appendonly yes", "dir /data"]
