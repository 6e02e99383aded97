"""A whole run of the bench of engines: pairs made, engines loaded, cells measured."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path

from evaluation.load.engines.bench import Bench, Results
from evaluation.load.engines.exact_prompts import exact_prompts
from evaluation.load.engines.fleet import EngineOptions, Tokens, running_fleet
from evaluation.load.engines.records import POCKET
from evaluation.pocket.records import Task

INFLATED_INTERMEDIATE_SIZE = 32_000
"""Makes the pocket target 150 million parameters."""


def run_engine_bench(
    options: EngineOptions, pairs: Sequence[str], progress: Callable[[str], None]
) -> tuple[Results, dict[str, str]]:
    """Measure every pair with everything that the options ask for; also the versions of the engines measured.

    One pair at a time, so that memory holds all engines of it. Raises WorkerError when an engine fails.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(pocket_folder() / "target" / "tokenizer.json"))

    @cache
    def prompts(task: Task, num_tokens: int, count: int, seed: int) -> Sequence[Tokens]:
        def encode(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)

        return exact_prompts(task, num_tokens, count, seed, encode)

    bench = Bench(plan=options.plan, prompts=prompts, progress=progress)
    versions: dict[str, str] = {}
    started_s = time.monotonic()
    for index, pair in enumerate(pairs):
        deadline_s = started_s + options.plan.budget_s * (index + 1) / len(pairs)
        with pair_folder(pair, progress) as folder, running_fleet(options, folder, progress) as fleet:
            versions |= fleet.versions
            bench.measure(pair, fleet, deadline_s)
    return bench.results, versions


@contextmanager
def pair_folder(pair: str, progress: Callable[[str], None]) -> Iterator[Path]:
    """The folder of a pair's checkpoints: the shipped one, or one inflated for the length of the block."""
    if pair == POCKET:
        yield pocket_folder()
        return
    # Late: needs torch and the library, which the bench itself does not.
    from evaluation.pocket.inflate import inflate

    progress("inflating the pocket pair")
    with tempfile.TemporaryDirectory(prefix="outrider-inflated-") as folder:
        inflate(pocket_folder(), Path(folder), intermediate_size=INFLATED_INTERMEDIATE_SIZE)
        yield Path(folder)


def pocket_folder() -> Path:
    return Path(str(files("deployments.models"))) / "pocket"
