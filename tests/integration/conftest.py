"""Ray clusters for all tests that need one: `outrider serve` as a user starts it, with the tiny or the pocket pair."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.serve_process import Server, running_server
from tests.support.tiny_checkpoint import tiny_settings


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    yield from running_server(folder, tiny_settings(folder))


@pytest.fixture(scope="session")
def pocket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What `make serve` serves."""
    yield from running_server(tmp_path_factory.mktemp("pocket"), {})
