"""A tensor-parallel engine over rank processes on this machine, without ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deployments.config import OutriderConfig
from deployments.verifier.parallel_engine import ParallelEngine, RankListener

_SERVE = (
    "import json, sys; from deployments.drafter.building import hold_engine; "
    "from deployments.verifier.rank_worker import serve_share; "
    "serve_share(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3]), hold_engine)"
)
START_TIMEOUT_S = 240.0


@dataclass
class RankProcesses:
    """The processes of the ranks, the engine over them, and what it said when one was lost."""

    processes: list[subprocess.Popen[bytes]]
    engine: ParallelEngine
    losses: list[str] = field(default_factory=list)


@contextmanager
def running_ranks(config: OutriderConfig, folder: Path, timeout_s: float = 60.0) -> Iterator[RankProcesses]:
    """Start one process per rank of the configuration; they end with the block."""
    fields = json.dumps(config.model_dump(mode="json"))
    listener = RankListener(folder)
    processes = [
        subprocess.Popen([sys.executable, "-c", _SERVE, fields, str(folder), str(rank)])
        for rank in range(config.verifier.num_ranks)
    ]
    losses: list[str] = []
    try:
        engine = listener.engine(
            len(processes),
            start_timeout_s=START_TIMEOUT_S,
            timeout_s=timeout_s,
            failure=lambda: _failure(processes),
            on_lost=losses.append,
        )
        yield RankProcesses(processes, engine, losses)
        engine.shut_down()
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _failure(processes: list[subprocess.Popen[bytes]]) -> str | None:
    statuses: list[Callable[[], int | None]] = [process.poll for process in processes]
    ended = [rank for rank, poll in enumerate(statuses) if poll() is not None]
    return f"rank {ended[0]} has ended" if ended else None
