"""k8s/README.md names what there is: every overlay, every alert, commands and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from deployments.cli.main import VERBS

K8S = Path(__file__).resolve().parents[2] / "k8s"
TEXT = (K8S / "README.md").read_text("utf-8")


def test_every_alert_has_a_line_and_every_line_an_alert() -> None:
    groups = yaml.safe_load((K8S / "monitoring" / "rules.yaml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    table = TEXT.partition("<!-- alerts:begin -->")[2].partition("<!-- alerts:end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]
    assert {row[0] for row in rows} == alerts
    assert all(len(row) == 3 and all(row) for row in rows)


def test_every_overlay_is_named() -> None:
    named = set(re.findall(r"`overlays/([\w-]+)`", TEXT))
    assert named == {path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml")}


def test_commands_and_files_exist() -> None:
    verbs = set(re.findall(r"(?:\.venv/bin/|`)outrider ([a-z]+)", TEXT))
    assert verbs
    assert verbs <= set(VERBS)
    for name in set(re.findall(r"k8s/(?:overlays|secrets|base|components)[\w./-]*[\w/]", TEXT)):
        is_secret = name.startswith("k8s/secrets/")
        assert is_secret or (K8S.parent / name).exists(), name
    secrets = yaml.safe_load((K8S / "secrets" / "kustomization.yaml").read_text())["secretGenerator"]
    files = {entry.rpartition("=")[2] for generator in secrets for entry in generator["files"]}
    assert {file for file in files if file in TEXT} == files
