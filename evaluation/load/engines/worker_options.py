"""A worker's command line. Standard library only: workers run in peers' environments too."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What a worker loads: a pair of checkpoints, for so many streams of so long a context.

    `lookahead` is for engines that fix it when they load; the others take it with each request. `device` and `dtype`
    are torch's names.
    """

    pair: Path
    max_streams: int
    max_context_tokens: int
    threads: int
    lookahead: int = 0
    device: str = "cpu"
    dtype: str = "float32"

    def as_arguments(self) -> list[str]:
        """The command line that `parse_options` reads."""
        return [
            f"--pair={self.pair}",
            f"--max-streams={self.max_streams}",
            f"--max-context-tokens={self.max_context_tokens}",
            f"--threads={self.threads}",
            f"--lookahead={self.lookahead}",
            f"--device={self.device}",
            f"--dtype={self.dtype}",
        ]


def parse_options(arguments: list[str] | None = None) -> WorkerOptions:
    """Read a worker's command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pair", type=Path, required=True)
    for name in ("--max-streams", "--max-context-tokens", "--threads", "--lookahead"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--device", "--dtype"):
        parser.add_argument(name, required=True)
    return WorkerOptions(**vars(parser.parse_args(arguments)))
