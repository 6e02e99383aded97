"""Versions that are as required, and those that are not."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

from deployments.checks.versions import check_versions

INSTALLED = {"ray": "2.60.0", "torch": "2.13.0+cpu", "transformers": "5.23.0"}


def installed(name: str) -> str:
    if name not in INSTALLED:
        raise PackageNotFoundError(name)
    return INSTALLED[name]


def test_all_is_as_required() -> None:
    findings = check_versions(["ray[serve]>=2.60,<3", "torch>=2.11,<3"], "3.11.7", installed)
    assert [finding.state for finding in findings] == ["ok", "ok"]
    assert "2 of 2" in findings[1].detail
    assert "torch 2.13.0+cpu" in findings[1].detail


def test_each_fault_is_named_with_the_command_that_mends_it() -> None:
    python, excluded, absent, rest = check_versions(
        ["ray>=2.60", "transformers>=5.17,!=5.23.0,<5.25", "msgspec>=0.19", "tqdm>=4; extra == 'dev'"],
        "3.10.1",
        installed,
    )
    assert (python.state, excluded.state, absent.state, rest.state) == ("problem", "problem", "problem", "ok")
    assert "3.10.1" in python.detail
    assert "transformers is 5.23.0" in excluded.detail
    assert excluded.remedy == "pip install 'transformers!=5.23.0,<5.25,>=5.17'"
    assert absent.detail == "msgspec is not installed"
    assert "1 of 3" in rest.detail


def test_the_distribution_itself_is_read() -> None:
    assert check_versions(installed=lambda name: "0")[0].check == "python"
    assert any("ray" in finding.detail for finding in check_versions(installed=lambda name: "0"))
