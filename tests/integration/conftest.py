"""One Ray cluster for all tests that need one: `outrider serve` as a user starts it, with the tiny pair."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.serve_process import Server, start_server
from tests.support.tiny_checkpoint import tiny_settings


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    server = start_server(folder, tiny_settings(folder))
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
