"""Kernels are compiled once per machine; without a compiler an engine does without them, and says so."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

import pytest

from deployments.kernels import library
from deployments.kernels.library import Kernels, default_cache_folder


@pytest.fixture(autouse=True)
def forgotten() -> None:
    library._load.cache_clear()


def test_a_warm_start_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Kernels().library() is not None
    library._load.cache_clear()
    runs = []
    real = subprocess.run

    def counted(command: list[str], **options: object) -> object:
        runs.append(command)
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(library.subprocess, "run", counted)
    assert Kernels().library() is not None
    assert [command[1:] for command in runs] == [["--version"]]


def test_a_cold_start_compiles_into_the_folder_it_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "kernels"
    assert Kernels(cache_folder=folder).library() is not None
    assert [file.suffix for file in folder.iterdir()] == [".so"]


def test_without_a_compiler_there_are_none_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert Kernels().library() is None
    assert "no C++ compiler" in caplog.text


def test_a_compiler_that_fails_is_quoted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    fake = tmp_path / "c++"
    fake.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo fake 1.0; else echo "no such luck" >&2; exit 1; fi\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with caplog.at_level(logging.WARNING):
        assert Kernels(cache_folder=tmp_path / "cache").library() is None
    assert "no such luck" in caplog.text
    assert not list((tmp_path / "cache").iterdir())


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert Kernels(cache_folder=tmp_path / "file" / "folder").library() is None
    assert "no compiled kernels" in caplog.text


def test_not_wanted_means_not_built(tmp_path: Path) -> None:
    assert Kernels(compiled=False, cache_folder=tmp_path).library() is None
    assert not list(tmp_path.iterdir())


def test_the_users_cache_folder_is_the_default() -> None:
    assert default_cache_folder() == Path.home() / ".cache" / "outrider"
