"""The report's tables about speed."""

from __future__ import annotations

from collections.abc import Iterator

from evaluation.load.throughput_records import Cell, Span, Throughput
from evaluation.report import diagrams
from evaluation.report.page import Section, Table
from evaluation.report.quality_tables import variant_rows


def sections(found: Throughput) -> Iterator[Section]:
    """What a throughput measurement adds to a page."""
    yield Section("Throughput", rates(found), diagrams.latency_by_throughput(found.cells))
    yield Section("Latency", latencies(found))
    yield Section("Acceptance by position", positions(found), diagrams.acceptance_by_position(found.cells))
    yield Section("Memory", memory(found))
    yield Section("Configuration of the throughput run", configuration(found))


def rates(found: Throughput) -> Table:
    """Tokens/s by class, streams and variant."""
    return Table(
        ("class", "streams", "variant", "tokens/s", "over base", "acceptance length", "prompt tokens", "answer tokens"),
        tuple(
            (
                *_place(cell),
                _span(cell.tokens_per_s, 0),
                _span(cell.speed_up, 2),
                _number(cell.acceptance_length, 2),
                _number(cell.prompt_tokens, 0),
                _number(cell.output_tokens, 0),
            )
            for cell in found.cells
        ),
        f"Medians of {found.lengths.num_repeats} interleaved repeats (smallest to largest); greedy, the end of text "
        "ignored, prefill included. Over base: repeat by repeat.",
    )


def latencies(found: Throughput) -> Table:
    """First token, time per token, and gaps between chunks."""
    return Table(
        ("class", "streams", "variant", "TTFT p50, ms", "p99", "TPOT p50, ms", "p99", "ITL p50, ms", "p99"),
        tuple(
            (
                *_place(cell),
                *(
                    _number(value, 1)
                    for value in (
                        cell.ttft_ms_p50,
                        cell.ttft_ms_p99,
                        cell.tpot_ms_p50,
                        cell.tpot_ms_p99,
                        cell.itl_ms_p50,
                        cell.itl_ms_p99,
                    )
                ),
            )
            for cell in found.cells
        ),
        "ITL is the time between chunks: one chunk carries all tokens of a round, so that speculation lowers TPOT and "
        "may raise ITL.",
    )


def positions(found: Throughput) -> Table:
    """The share of rounds that accepted each position."""
    told = [cell for cell in found.cells if cell.by_position]
    most = max((len(cell.by_position) for cell in told), default=0)
    return Table(
        ("class", "streams", "variant", *(str(place) for place in range(1, most + 1))),
        tuple(
            (*_place(cell), *(f"{share:.2f}" for share in cell.by_position), *[""] * (most - len(cell.by_position)))
            for cell in told
        ),
        "Share of rounds whose drafted token at that position was accepted, with all before it.",
    )


def memory(found: Throughput) -> Table:
    """What each role holds."""
    rows = [(role, f"{num_bytes / 1e6:.0f}") for role, num_bytes in sorted(found.memory_bytes.items())]
    return Table(
        ("role", "resident memory, MB"),
        tuple(rows) or (("not told by the endpoint", ""),),
        "The drafters' is what speculation adds where they have processes of their own; memory on a GPU is not in it.",
    )


def configuration(found: Throughput) -> Table:
    """What was measured, on what, by which command."""
    lengths = found.lengths
    rows = [
        ("endpoint", found.url),
        ("model", found.model),
        ("hardware", found.hardware),
        (
            "prompts",
            f"exactly {lengths.prompt_tokens} tokens"
            if found.has_fixed_prompts
            else "as the texts are: the endpoint has no /tokenize",
        ),
        ("answers", f"{lengths.output_tokens} tokens"),
        ("answers timed", f"{lengths.num_waves} per stream and repeat, after one that is not"),
        *variant_rows(found.variants),
        *found.environment.items(),
    ]
    return Table(("", ""), tuple(rows))


def _place(cell: Cell) -> tuple[str, str, str]:
    return cell.task_class, str(cell.num_streams), cell.variant


def _span(span: Span | None, digits: int) -> str:
    return "" if span is None else f"{span.median:.{digits}f} ({span.low:.{digits}f} to {span.high:.{digits}f})"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
