"""What several modules use: `outrider serve` as a user starts it, and a tiny or the pocket target for engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.equality import POCKET, Reference
from tests.support.serve_process import Server, running_server
from tests.support.tiny_checkpoint import tiny_settings
from tests.support.tiny_models import save_tiny_target


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    yield from running_server(folder, tiny_settings(folder))


@pytest.fixture(scope="session")
def pocket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What `make serve` serves."""
    yield from running_server(tmp_path_factory.mktemp("pocket"), {})


@pytest.fixture(scope="module", params=["tiny", "pocket"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that engines are tried with."""
    if request.param == "pocket":
        return POCKET / "target"
    return save_tiny_target(tmp_path_factory.mktemp("tiny"), head_dim=16, global_head_dim=32)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Reference:
    """The library's own model of that target."""
    return Reference(folder)
