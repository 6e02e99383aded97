"""The engines of one pair, each loaded in a process of its own; whichever is not asked waits for its next line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.load.engines.records import (
    HF,
    HF_ASSISTED,
    HF_CONTINUOUS,
    OUTRIDER,
    VLLM,
    EnginePlan,
    Run,
    Setting,
    run_from_answer,
)
from evaluation.load.engines.worker_options import WorkerOptions
from evaluation.load.engines.worker_process import Worker

Tokens = Sequence[int]
MAX_BATCH_ASSISTED = 1
"""transformers assists one prompt at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What `outrider bench engine` was asked for. Without `vllm_python` vLLM is left out; its device is its build's."""

    systems: Sequence[str]
    vllm_python: Path | None
    threads: int
    plan: EnginePlan
    device: str = "cpu"
    dtype: str = "float32"


class Fleet:
    """Loaded workers by setting: systems that take the lookahead with a request share one worker."""

    def __init__(self, workers: Mapping[Setting, Worker], versions: Mapping[str, str]) -> None:
        self._workers = dict(workers)
        self.versions = dict(versions)

    @property
    def settings(self) -> Sequence[Setting]:
        """Everything that can be measured."""
        return list(self._workers)

    def run(self, setting: Setting, prompts: Sequence[Tokens], num_streams: int, max_tokens: int) -> Run:
        """One timed run; raises WorkerError."""
        request = {
            "system": setting.system,
            "lookahead": setting.lookahead,
            "prompts": prompts,
            "num_streams": num_streams,
            "max_tokens": max_tokens,
        }
        return run_from_answer(self._workers[setting].ask(request))


def can_run(setting: Setting, num_streams: int) -> bool:
    """Whether a system works on so many prompts at once."""
    return setting.system != HF_ASSISTED or num_streams <= MAX_BATCH_ASSISTED


@contextmanager
def running_fleet(options: EngineOptions, pair: Path, progress: Callable[[str], None]) -> Iterator[Fleet]:
    """Load every engine that was asked for, one after another, and end them all however the block ends."""
    plan = options.plan
    loads = WorkerOptions(
        pair=pair,
        max_streams=max(plan.num_prompts),
        max_context_tokens=max(plan.prompt_tokens) + plan.max_tokens,
        threads=options.threads,
        device=options.device,
        dtype=options.dtype,
    )
    workers: dict[Setting, Worker] = {}
    versions: dict[str, str] = {}
    with ExitStack() as stack:
        for start, settings in _starts(options, loads):
            progress(f"loading {', '.join(setting.name for setting in settings)}")
            worker = start()
            stack.callback(worker.close)
            # Of each engine's own environment: two may have different versions of one library.
            versions |= {f"{worker.name}: {name}": v for name, v in worker.wait_until_ready().items()}
            workers |= dict.fromkeys(settings, worker)
        yield Fleet(workers, versions)


def _starts(options: EngineOptions, loads: WorkerOptions) -> Iterator[tuple[Callable[[], Worker], tuple[Setting, ...]]]:
    """How to start each worker, and the settings that it answers for."""
    plan, asked = options.plan, options.systems
    package = __package__
    environment = {"OMP_NUM_THREADS": str(loads.threads)}
    arguments = loads.as_arguments()
    if OUTRIDER in asked:
        settings = (Setting(OUTRIDER, 0), *(Setting(OUTRIDER, k) for k in plan.lookaheads))
        yield lambda: Worker(f"{package}.outrider_worker", arguments, env=environment), settings
    if VLLM in asked and options.vllm_python is not None:
        for lookahead in (0, *plan.vllm_lookaheads):
            start = _vllm_start(options.vllm_python, replace(loads, lookahead=lookahead))
            yield start, (Setting(VLLM, lookahead),)
    assisted = [Setting(HF_ASSISTED, k) for k in plan.lookaheads if HF_ASSISTED in asked]
    settings = (*(Setting(system, 0) for system in (HF, HF_CONTINUOUS) if system in asked), *assisted)
    if settings:
        yield lambda: Worker(f"{package}.hf_worker", arguments, env=environment), settings


def _vllm_start(python: Path, loads: WorkerOptions) -> Callable[[], Worker]:
    environment = {
        "OMP_NUM_THREADS": str(loads.threads),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        # The engine in the worker's own process, as the others are.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    return lambda: Worker(f"{__package__}.vllm_worker", loads.as_arguments(), python=python, env=environment)
