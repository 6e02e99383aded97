"""Turns measurements into a Markdown table, and into a JSON file that says where and how they were made."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evaluation.load.bench import HF_ASSISTED, HF_PLAIN, OFF, ON
from evaluation.load.samples import Cell, Sample, Spread, spread

Results = Mapping[Cell, Sequence[Sample]]
COLUMNS = (OFF, ON, HF_PLAIN, HF_ASSISTED)
PACKAGES = ("outrider", "torch", "transformers", "ray")


def to_markdown(results: Results, environment: Mapping[str, Any]) -> str:
    """The results table with its notes: medians, with the smallest and largest run in brackets."""
    columns = [name for name in COLUMNS if any(cell.system == name for cell in results)]
    lines = [
        f"| tokens/s | streams | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for task, num_streams in dict.fromkeys((cell.task, cell.num_streams) for cell in results):
        row = [cell_text(results.get(Cell(task, num_streams, name)), name) for name in columns]
        lines.append(f"| {task} | {num_streams} | {' | '.join(row)} |")
    return "\n".join([*lines, "", *notes(results, environment)]) + "\n"


def cell_text(samples: Sequence[Sample] | None, system: str) -> str:
    """`median (low to high)`, and the acceptance length where something was drafted."""
    if not samples:
        return "one at a time: as at 1" if system == HF_ASSISTED else "not measured"
    text = span_text(spread([sample.tokens_per_s for sample in samples]), 0)
    lengths = [length for sample in samples if (length := sample.acceptance_length) is not None]
    return f"{text}; {spread(lengths).median:.2f} per round" if lengths else text


def span_text(span: Spread, digits: int) -> str:
    return f"{span.median:.{digits}f} ({span.low:.{digits}f} to {span.high:.{digits}f})"


def notes(results: Results, environment: Mapping[str, Any]) -> list[str]:
    """What a reader must know to believe the table."""
    num_repeats = max(len(samples) for samples in results.values())
    lines = [
        f"Medians of {num_repeats} interleaved runs (smallest to largest), greedy, prefill included; "
        "`per round` is the mean acceptance length.",
        "",
        f"Time per round outside the models at one session, ms: {overheads(results)}.",
        "",
        f"Same text, at one stream: {agreement(results)}.",
        "",
        f"{environment['machine']}; {environment['versions']}; {environment['date']}; `{environment['command']}`",
    ]
    return lines


def overheads(results: Results) -> str:
    """Per task, from the single-stream runs."""
    found = []
    for cell, samples in results.items():
        values = [sample.overhead_ms for sample in samples if sample.overhead_ms is not None]
        if values:
            found.append(f"{cell.task} {span_text(spread(values), 2)}")
    return ", ".join(found) or "not exported by this endpoint"


def agreement(results: Results) -> str:
    """How many single-stream answers of each other system equal the endpoint's with speculation off."""
    found = []
    for other in (ON, HF_PLAIN, HF_ASSISTED):
        num_equal = num_answers = 0
        for cell, samples in results.items():
            if cell.system == other and cell.num_streams == 1:
                for reference, sample in zip(results.get(Cell(cell.task, 1, OFF), ()), samples, strict=False):
                    num_answers += len(sample.texts)
                    num_equal += sum(a == b for a, b in zip(reference.texts, sample.texts, strict=True))
        if num_answers:
            found.append(f"{other} {num_equal} of {num_answers}")
    return f"{', '.join(found)} as {OFF}" if found else "nothing to compare"


def to_json(results: Results, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Every sample, without its texts, and the environment."""
    return {
        "environment": dict(environment),
        "cells": [
            {
                "task": cell.task,
                "num_streams": cell.num_streams,
                "system": cell.system,
                "samples": [
                    {
                        "num_tokens": sample.num_tokens,
                        "wall_s": sample.wall_s,
                        "tokens_per_s": sample.tokens_per_s,
                        "num_rounds": sample.num_rounds,
                        "acceptance_length": sample.acceptance_length,
                        "overhead_ms": sample.overhead_ms,
                    }
                    for sample in samples
                ],
            }
            for cell, samples in results.items()
        ],
    }


def describe_environment(command: str) -> dict[str, Any]:
    """Machine, versions, source revision, command and date."""
    return {
        "machine": machine(),
        "versions": ", ".join(f"{name} {installed(name)}" for name in PACKAGES)
        + f", Python {platform.python_version()}",
        "revision": revision(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
    }


def machine() -> str:
    """Processor, usable cores, memory and GPUs, in words."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return ", ".join([processor_name(), f"{num_cores} cores", f"{memory_gb:.0f} GB", *gpu_names()])


def processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def gpu_names() -> list[str]:
    """As the driver's tool tells them: an endpoint's GPUs are none of this process's."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return told.splitlines()


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def revision() -> str:
    """The commit that the sources are at, "" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except OSError:
        return ""
    return result.stdout.strip()
