"""`outrider dashboards` against a server that takes what Grafana 11 to 13 take, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from cluster.ports import free_ports
from deployments.cli.main import main
from deployments.monitoring.rules import ALERTS
from tests.support.fake_grafana import TOKEN, FakeGrafana, fake_grafana


@pytest.fixture
def grafana(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGrafana]:
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)
    with fake_grafana() as grafana:
        yield grafana


def dashboards(action: str, grafana: FakeGrafana, *more: str) -> int:
    return main(["dashboards", action, "--url", grafana.url, *more])


def test_a_push_writes_folder_and_dashboard_and_a_second_one_nothing(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboards("push", grafana) == 0
    assert grafana.writes == [("POST", "/api/folders"), ("POST", "/api/dashboards/db")]
    assert grafana.placed == {"outrider": "outrider"}
    assert capsys.readouterr().out == f"{grafana.url}/d/outrider is written\n"
    assert dashboards("push", grafana) == 0
    assert len(grafana.writes) == 2
    assert "nothing written" in capsys.readouterr().out


def test_a_server_of_a_newer_schema_is_not_written_to_again(grafana: FakeGrafana) -> None:
    grafana.schema_version = 42
    assert dashboards("push", grafana) == 0
    assert dashboards("push", grafana) == 0
    assert len(grafana.writes) == 2


def test_a_diff_names_what_was_changed_there_and_a_push_undoes_it(
    grafana: FakeGrafana, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboards("diff", grafana) == 1
    dashboards("push", grafana)
    assert dashboards("diff", grafana) == 0
    panel = grafana.dashboards["outrider"]["panels"][1]
    panel["targets"][0]["expr"] = "vector(1)"
    grafana.dashboards["outrider"]["version"] = 7
    capsys.readouterr()
    assert dashboards("diff", grafana) == 1
    assert f"panels[{panel['title']}].targets[0].expr: 'vector(1)' -> " in capsys.readouterr().out
    assert dashboards("push", grafana) == 0
    assert dashboards("diff", grafana) == 0
    assert grafana.dashboards["outrider"]["version"] == 8


def test_a_dashboard_in_another_folder_is_brought_back(grafana: FakeGrafana) -> None:
    dashboards("push", grafana)
    grafana.placed["outrider"] = "elsewhere"
    dashboards("push", grafana)
    assert grafana.placed["outrider"] == "outrider"


def test_a_grafana_below_a_path_and_a_token_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with fake_grafana("/grafana") as grafana:
        assert dashboards("push", grafana, "--token-file", str(tmp_path / "token")) == 0
        assert grafana.dashboards


def test_what_is_wrong_is_said_and_how_to_mend_it(
    grafana: FakeGrafana, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grafana.may_write = False
    assert dashboards("push", grafana) == 2
    assert "give it the role Editor" in capsys.readouterr().err
    monkeypatch.setenv("GRAFANA_TOKEN", "wrong")
    assert dashboards("push", grafana) == 2
    error = capsys.readouterr().err
    assert "the token is not accepted" in error
    assert "wrong" not in error
    monkeypatch.delenv("GRAFANA_TOKEN")
    assert dashboards("push", grafana) == 2
    assert "set GRAFANA_TOKEN" in capsys.readouterr().err
    assert main(["dashboards", "push", "--url", "grafana.example.org"]) == 2
    assert "GRAFANA_TOKEN" in capsys.readouterr().err


def test_addresses_that_are_no_grafana(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GRAFANA_TOKEN", TOKEN)

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.status)  # type: ignore[attr-defined]
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for server.status, said in ((200, "is no Grafana"), (404, "HTTP 404")):  # type: ignore[attr-defined]
            assert main(["dashboards", "push", "--url", url]) == 2
            assert said in capsys.readouterr().err
        server.shutdown()
    assert main(["dashboards", "push", "--url", f"http://127.0.0.1:{free_ports(1)[0]}"]) == 2
    assert "nothing answers" in capsys.readouterr().err
    assert main(["dashboards", "push", "--url", "grafana.example.org"]) == 2
    assert "is no address of a Grafana" in capsys.readouterr().err


def test_export_writes_what_the_repository_has(tmp_path: Path) -> None:
    assert main(["dashboards", "export", "--out", str(tmp_path)]) == 0
    kept = Path(__file__).resolve().parents[3] / "k8s" / "monitoring"
    written = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    assert written == {name: (kept / name).read_text("utf-8") for name in written}, (
        "run `outrider dashboards export --out k8s/monitoring`"
    )


def test_other_bounds_are_in_the_rules_and_what_they_say(tmp_path: Path) -> None:
    file = tmp_path / "bounds.yaml"
    file.write_text(
        "OutriderAcceptanceLow: 0.45\nOutriderErrors: {bound: 0.002, for: 10m}\nOutriderNotSeen: {for: 1m}\n"
    )
    assert main(["dashboards", "export", "--out", str(tmp_path / "out"), "--bounds", str(file)]) == 0
    rules = yaml.safe_load((tmp_path / "out" / "rules.yaml").read_text())["groups"][1]["rules"]
    resource = yaml.safe_load((tmp_path / "out" / "prometheus-rule.yaml").read_text())
    assert resource["spec"]["groups"][1]["rules"] == rules
    by_name = {rule["alert"]: rule for rule in rules}
    low, errors = by_name["OutriderAcceptanceLow"], by_name["OutriderErrors"]
    assert low["expr"].endswith(" < 0.45")
    assert "Fewer than 45 %" in low["annotations"]["summary"]
    assert (errors["expr"].endswith(" > 0.002"), errors["for"]) == (True, "10m")
    assert "More than 0.2 %" in errors["annotations"]["summary"]
    assert by_name["OutriderNotSeen"]["for"] == "1m"
    kept = {alert.name: alert for alert in ALERTS}
    changed = ("OutriderAcceptanceLow", "OutriderErrors", "OutriderNotSeen")
    assert all(f" {kept[name].bound:g}" in rule["expr"] for name, rule in by_name.items() if name not in changed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "OutriderAcceptanceLo: 0.4",
            "OutriderAcceptanceLo: there is no such alert; there are .*OutriderAcceptanceLow",
        ),
        ("OutriderErrors: {bounds: 1}", "unknown field `bounds`"),
        ("OutriderErrors: {for: soon}", r"OutriderErrors|\$\[\.\.\.\]\.for"),
        ("OutriderErrors: many", "Expected"),
        ("OutriderErrors: .nan", "OutriderErrors: bound: nan is no bound"),
        ("OutriderNotSeen: 2", "OutriderNotSeen: bound: it has none to be changed"),
        ("- 1", "Expected `object`"),
        ("a: [", "while parsing"),
    ],
)
def test_bounds_that_are_none_are_told(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bounds.yaml").write_text(text)
    command = ["dashboards", "export", "--out", str(tmp_path / "out"), "--bounds", str(tmp_path / "bounds.yaml")]
    assert main(command) == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
