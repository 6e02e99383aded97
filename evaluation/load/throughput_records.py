"""What a throughput measurement asks for and finds: classes of text, variants, streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from evaluation.quality.variants import Variant

FILE = "throughput.json"


class Span(msgspec.Struct, frozen=True):
    """Median, smallest and largest of repeated runs."""

    median: float
    low: float
    high: float


def span(values: Sequence[float]) -> Span:
    """Summarise repeated runs; `values` must not be empty."""
    return Span(median(values), min(values), max(values))


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How long prompts and answers are, in tokens, and how much of them is measured.

    Every stream asks for `num_waves` answers, one after the other, and one more before the clock starts.
    """

    prompt_tokens: int = 128
    output_tokens: int = 64
    streams: tuple[int, ...] = (1, 8)
    num_waves: int = 2
    num_repeats: int = 3
    seed: int = 0


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One class of text under one variant at so many streams. Latencies are over all repeats.

    `by_position[i]` is the share of rounds whose drafted token i + 1 was accepted; empty where nothing was drafted or
    the endpoint does not tell. `speed_up` is tokens/s over the base's, repeat by repeat; None of the base.
    """

    task_class: str
    variant: str
    num_streams: int
    prompt_tokens: float
    output_tokens: float
    tokens_per_s: Span
    ttft_ms_p50: float | None
    ttft_ms_p99: float | None
    tpot_ms_p50: float | None
    tpot_ms_p99: float | None
    itl_ms_p50: float | None
    itl_ms_p99: float | None
    acceptance_length: float | None
    by_position: tuple[float, ...] = ()
    speed_up: Span | None = None


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """A whole measurement. `hardware` is the endpoint's, `environment` this machine's and this command's.

    `has_fixed_prompts` says whether every prompt had exactly the length asked for, which takes an endpoint with
    /tokenize. `memory_bytes` is what the endpoint's roles hold, by role, where its metrics tell.
    """

    url: str
    model: str
    hardware: str
    environment: dict[str, str]
    lengths: Lengths
    variants: tuple[Variant, ...]
    has_fixed_prompts: bool
    memory_bytes: dict[str, float]
    cells: tuple[Cell, ...]


def keep(folder: Path, found: Throughput) -> Path:
    """Write a measurement into a folder; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / FILE
    file.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    return file


def kept(folder: Path) -> Throughput | None:
    """The measurement that a folder holds, if any. Raises ValueError if it is none."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=Throughput)
    except msgspec.DecodeError as error:
        raise ValueError(f"{file}: {error}") from error
