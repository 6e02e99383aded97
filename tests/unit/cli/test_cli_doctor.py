"""`outrider doctor`: what it prints, its JSON, and its exit status, with broken inputs."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from cluster.ports import free_ports
from deployments.checks.finding import Finding, ok, problem
from deployments.cli import doctor
from deployments.cli.main import main

POCKET = Path(str(files("deployments.models"))) / "pocket"


@pytest.fixture(autouse=True)
def versions(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the check of versions finds: tests/unit/checks has that check itself."""
    found = [ok("packages", "as required")]
    monkeypatch.setattr(doctor, "check_versions", lambda: found)
    return found


def on_free_ports() -> str:
    """A configuration that nothing stands in the way of, whatever else runs on this machine."""
    return f"ingress: {{port: {free_ports(1)[0]}}}\nstreams: {{port_range: [23400, 23499]}}\n"


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, str]]]:
    status = main(["doctor", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def test_models_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, findings = report(capsys, "--models", str(POCKET / "target"), str(POCKET / "assistant"))
    assert (status, {finding["state"] for finding in findings}) == (0, {"ok"})
    shutil.copytree(POCKET / "target", tmp_path / "target")
    weights = tmp_path / "target" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    status, findings = report(capsys, "--models", str(tmp_path / "target"))
    assert (status, findings[0]["state"]) == (1, "problem")
    assert "cut off" in findings[0]["detail"]
    assert findings[0]["remedy"]


def test_the_defaults_are_looked_at_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(on_free_ports())
    status, findings = report(capsys, str(tmp_path / "c.yaml"))
    assert {finding["check"] for finding in findings} == {
        *("packages", "models", "machines", "ports", "certificates", "keys")
    }
    assert status == 0, [finding for finding in findings if finding["state"] == "problem"]


def test_a_bad_configuration_is_a_problem_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("verifer: {}\n")
    status, findings = report(capsys, "--config", str(tmp_path / "c.yaml"))
    assert (status, findings[-1]["check"]) == (1, "configuration")
    assert "verifer" in findings[-1]["detail"]


def test_a_missing_model_and_labels_that_no_machine_has(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {model_source: nowhere}\ndrafter: {node_labels: {zone: moon}}\n")
    status = main(["doctor", str(tmp_path / "c.yaml")])
    printed = capsys.readouterr().out
    assert status == 1
    assert "PROBLEM  configuration: model.model_source" in printed
    assert "PROBLEM  labels: drafter wants nodes with zone: moon" in printed
    assert "         -> start the nodes with `ray start --labels=zone=...`" in printed
    assert "problem(s)" in printed.splitlines()[-1]


def test_a_version_that_does_not_fit_decides_the_status(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, versions: list[Finding]
) -> None:
    versions.append(problem("packages", "ray is 2.40", "pip install 'ray>=2.60'"))
    (tmp_path / "c.yaml").write_text(on_free_ports())
    assert main(["doctor", str(tmp_path / "c.yaml")]) == 1
    assert "-> pip install 'ray>=2.60'" in capsys.readouterr().out


def test_a_check_that_fails_itself_is_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(config: object) -> list[Finding]:
        raise RuntimeError("oh")

    monkeypatch.setattr(doctor, "check_certificates", broken)
    status, findings = report(capsys)
    details = {finding["check"]: finding["detail"] for finding in findings}
    assert (status, details["certificates"]) == (1, "the check failed: RuntimeError: oh")


def test_a_cluster_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    status, findings = report(capsys, "--address", "127.0.0.1:9")
    found = {finding["check"]: finding for finding in findings}
    assert (status, found["machines"]["state"], found["ports"]["state"]) == (1, "problem", "unknown")
    assert "127.0.0.1:9" in found["machines"]["detail"]
