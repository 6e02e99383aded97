"""The command: verbs load when they are used, and mistakes are told before anything starts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cluster.ports import free_ports
from deployments.cli import config_cmd
from deployments.cli.main import VERBS, main
from deployments.config import parse


def test_help_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys\nfrom deployments.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'transformers', 'pydantic'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    assert all(verb in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main([verb, "--help"])
    assert exit_status.value.code == 0
    assert f"outrider {verb}" in capsys.readouterr().out


def test_an_unknown_verb_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        main(["sevre"])
    assert exit_status.value.code == 2
    assert "serve" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--port", "--dashboard-port"])
def test_a_port_in_use_is_told_before_anything_starts(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    port, other_port = free_ports(2)
    other_flag = {"--port": "--dashboard-port", "--dashboard-port": "--port"}[flag]
    with socket.create_server(("127.0.0.1", port)):
        assert main(["serve", flag, str(port), other_flag, str(other_port)]) == 1
    said = capsys.readouterr()
    assert f"port {port}" in said.err
    assert flag in said.err
    assert "starting" not in said.out


def test_one_port_for_two_is_told_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert main(["serve", "--port", str(port), "--dashboard-port", str(port)]) == 1
    said = capsys.readouterr()
    assert f"port {port}" in said.err
    assert "--dashboard-port" in said.err
    assert "starting" not in said.out


def test_a_bad_configuration_is_told_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("router:\n  max_sesions: 3\n")
    assert main(["serve", "--config", str(file)]) == 1
    assert "router.max_sesions" in capsys.readouterr().err
    assert main(["serve", "--config", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml" in capsys.readouterr().err


def test_config_prints_what_serve_deploy_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("ingress: {port: 8123}\nspeculation: {num_speculative_tokens: 2}\n")
    assert main(["config", str(file)]) == 0
    printed = capsys.readouterr().out
    assert main(["config", "--config", str(file)]) == 0
    assert capsys.readouterr().out == printed
    fields = yaml.safe_load(printed)
    assert fields["http_options"] == {"host": "127.0.0.1", "port": 8123}
    (application,) = fields["applications"]
    assert application["import_path"] == "deployments.app:build"
    assert parse(application["args"]).speculation.num_speculative_tokens == 2


def test_config_for_another_machine_does_not_look_for_its_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: {model_source: /models/not-on-this-machine}\n")
    assert main(["config", str(file)]) == 2
    assert "model.model_source" in capsys.readouterr().err
    assert main(["config", str(file), "--elsewhere"]) == 0
    (application,) = yaml.safe_load(capsys.readouterr().out)["applications"]
    assert application["args"]["model"]["model_source"] == "/models/not-on-this-machine"


def test_streams_between_machines_get_a_proxy_on_each() -> None:
    config = parse({"streams": {"host": "node", "insecure_streams": True}})
    assert config_cmd.to_serve_config(config)["proxy_location"] == "EveryNode"


@pytest.mark.parametrize("arguments", [["config"], ["doctor"], ["eval", "suites"], ["keys", "list"]])
def test_whoever_reads_the_output_may_have_enough(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("tenants: [{name: a}, {name: b}]")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "deployments.cli.main", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path, env=environment
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


def test_ctrl_c_while_a_verb_is_loaded_ends_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("deployments.cli.main.import_module", interrupted)
    assert main(["config"]) == 130
