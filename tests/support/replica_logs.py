"""What the replicas of a running server have logged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.support.serve_process import Server, processes_below


def session_folder(server: Server) -> Path:
    """Where its Ray keeps its files."""
    for line in processes_below(server.process.pid).values():
        if match := re.search(r"/tmp/ray/session_[\w-]+", line):
            return Path(match[0])
    raise AssertionError("no Ray session")


def replica_lines(server: Server) -> list[dict[str, Any]]:
    """Every line of every replica's log file; each is JSON, that of Serve before a replica begins as well."""
    files = sorted((session_folder(server) / "logs" / "serve").glob("replica_outrider_*.log"))
    lines = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    return [line for line in lines if "role" in line]
