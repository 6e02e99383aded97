"""The bench: the endpoint with speculation off and on beside HF `generate`, interleaved, on the same prompts."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from evaluation.load.samples import Cell, Sample, System
from evaluation.pocket.records import Example, Task

TASKS: tuple[Task, ...] = ("structured", "code", "prose")
OFF, ON = "outrider, speculation off", "outrider"
HF_PLAIN, HF_ASSISTED = "HF generate", "HF generate, assisted"

Prompts = Callable[[Task, int, int], Sequence[Example]]
"""(task, count, seed) -> held-out examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure. `num_prompts` maps a number of streams to the prompts answered per run.

    `budget_s` bounds the whole run: a further repeat starts only if the last one's duration still fits.
    """

    num_repeats: int = 5
    max_tokens: int = 96
    num_prompts: Mapping[int, int]
    budget_s: float = 1800.0
    tasks: tuple[Task, ...] = TASKS


FULL = Plan(num_prompts={1: 6, 8: 24})
QUICK = Plan(num_repeats=3, max_tokens=64, num_prompts={1: 3, 8: 16}, budget_s=240.0)

Results = dict[Cell, list[Sample]]


def measure(
    systems: Sequence[System],
    plan: Plan,
    prompts: Prompts,
    progress: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Results:
    """Run every cell once per repeat, systems taking turns on the same prompts; each repeat has prompts of its own."""
    results: Results = defaultdict(list)
    started = clock()
    warm_up(systems, plan, prompts, progress)
    for repeat in range(plan.num_repeats):
        repeat_started = clock()
        for cell, system, examples in cells(systems, plan, prompts, repeat):
            sample = system.measure(examples, cell.num_streams, plan.max_tokens)
            results[cell].append(sample)
            progress(describe(repeat, plan, cell, sample))
        now = clock()
        if repeat + 1 < plan.num_repeats and now - started + (now - repeat_started) > plan.budget_s:
            progress(f"time is up after {repeat + 1} of {plan.num_repeats} repeats")
            break
    return dict(results)


def cells(
    systems: Sequence[System], plan: Plan, prompts: Prompts, repeat: int
) -> Iterator[tuple[Cell, System, Sequence[Example]]]:
    """One repeat in order; every other repeat turns the systems' order around, so that none always comes first."""
    order = systems if repeat % 2 == 0 else systems[::-1]
    for task in plan.tasks:
        for num_streams, count in plan.num_prompts.items():
            examples = prompts(task, count, 1 + repeat)
            for system in order:
                if num_streams <= system.max_streams:
                    yield Cell(task, num_streams, system.name), system, examples


def warm_up(systems: Sequence[System], plan: Plan, prompts: Prompts, progress: Callable[[str], None]) -> None:
    """Let every system see the batch sizes once, untimed: allocators, caches, lazily built kernels."""
    for system in systems:
        progress(f"warming up {system.name}")
        for num_streams in plan.num_prompts:
            if num_streams <= system.max_streams:
                system.measure(prompts(plan.tasks[0], num_streams, 0), num_streams, 16)


def describe(repeat: int, plan: Plan, cell: Cell, sample: Sample) -> str:
    length = sample.acceptance_length
    accepted = "" if length is None else f", acceptance length {length:.2f}"
    head = f"[{repeat + 1}/{plan.num_repeats}] {cell.task} x{cell.num_streams} {cell.system}"
    return f"{head}: {sample.tokens_per_s:.0f} tokens/s{accepted}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What `outrider bench` was asked for. `url` None starts a server with `config` for the length of the run.

    `target` and `assistant` are the checkpoints that HF `generate` loads, `device` and `dtype` where and as what; None
    leaves HF out.
    """

    url: str | None
    config: Path | None
    target: Path | None
    assistant: Path | None
    assistant_tokens: int
    device: str = "cpu"
    dtype: str = "float32"
    num_speculative_tokens: int | None
    plan: Plan


def run_bench(options: BenchOptions, progress: Callable[[str], None]) -> Results:
    """Measure everything that the options ask for."""
    # Late: the models' recipe needs torch, `outrider bench --help` does not.
    from evaluation.pocket.prompts import held_out

    with endpoint(options, progress) as url:
        return measure(systems_for(options, url), options.plan, held_out, progress)


@contextmanager
def endpoint(options: BenchOptions, progress: Callable[[str], None]) -> Iterator[str]:
    """The endpoint's address: the one given, or that of a server started here and stopped at the end."""
    from evaluation.client import base_url
    from evaluation.load.server import running_server

    with ExitStack() as stack:
        if options.url is not None:
            yield base_url(options.url)
        else:
            progress("starting `outrider serve`")
            yield stack.enter_context(running_server(options.config))
            progress("stopping the server")


def systems_for(options: BenchOptions, url: str) -> list[System]:
    """The table's columns: the endpoint twice, and HF where its checkpoints are given."""
    from evaluation.load.endpoint import EndpointSystem, served_model

    served = served_model(url)
    off = EndpointSystem(name=OFF, url=url, served=served, num_speculative_tokens=0)
    on = replace(off, name=ON, num_speculative_tokens=options.num_speculative_tokens, scrapes=True)
    systems: list[System] = [off, on]
    if options.target is not None:
        # Late, as above.
        import torch

        from evaluation.load.hf_generate import HfSystem, load_assistant, load_checkpoint

        dtype = getattr(torch, options.dtype)
        checkpoint = load_checkpoint(options.target, device=options.device, dtype=dtype)
        systems.append(HfSystem(name=HF_PLAIN, checkpoint=checkpoint))
        if options.assistant is not None:
            assistant = load_assistant(options.assistant, options.assistant_tokens, device=options.device, dtype=dtype)
            systems.append(HfSystem(name=HF_ASSISTED, checkpoint=checkpoint, assistant=assistant))
    return systems


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
