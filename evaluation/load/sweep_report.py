"""What a sweep leaves behind: results.json, the picture, and two tables for the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.load.sweep import SweepPlan, SweepResults
from evaluation.load.sweep_compare import Comparison, OneForAll, one_for_all
from evaluation.load.sweep_records import Row

RESULTS_FILE, PICTURE_FILE = "results.json", "frontier.png"


def to_json(results: SweepResults, plan: SweepPlan, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything: the calibration's rows, the comparison and the runs that it was made of."""
    return {
        "environment": dict(environment),
        "slo": asdict(plan.slo),
        "timing_s": None if plan.is_virtual else asdict(plan.timing),
        "max_tokens": plan.max_tokens,
        "why_short": results.why_short,
        "rows": [row.as_json() for row in results.rows],
        "comparison": [one.as_json() for one in results.comparisons],
        "one_for_all": None if (one := one_for_all(results.rows)) is None else one.as_json(),
        "repeats": [row.as_json() for row in results.repeats],
    }


def write(folder: Path, document: Mapping[str, Any]) -> None:
    """Replace results.json as a whole: whoever reads it while the sweep goes on finds an old one or a new one."""
    draft = folder / f".{RESULTS_FILE}.new"
    draft.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(draft, folder / RESULTS_FILE)


def to_markdown(results: SweepResults, environment: Mapping[str, Any]) -> str:
    """The rows and the comparison as Markdown tables."""
    lines = [
        "| class | load | lookahead | tokens/s | TTFT ms p50 / p99 | TPOT ms p50 / p99 | ITL ms p99 | per round "
        "| goodput/s |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(row) for row in results.rows),
    ]
    if results.comparisons:
        lines += [
            "",
            "| class | load | best fixed | auto over it (95 % above) | auto over off (95 % above) | runs |",
            "|---|---|---|---|---|---|",
            *(_comparison(one) for one in results.comparisons),
        ]
    if (one := one_for_all(results.rows)) is not None:
        lines += ["", _one_for_all(one)]
    if results.why_short:
        lines += ["", f"Not everything was measured: {results.why_short}."]
    if "hardware" in environment:
        lines += ["", f"{environment['hardware'][:1].upper()}{environment['hardware'][1:]}."]
    place = f"{environment['machine']}; {environment['versions']}; {environment['date']}; `{environment['command']}`"
    return "\n".join([*lines, "", place]) + "\n"


def _row(row: Row) -> str:
    ttft, tpot = _pair(row.ttft_ms_p50, row.ttft_ms_p99), _pair(row.tpot_ms_p50, row.tpot_ms_p99)
    cells: Sequence[str] = (
        row.request_class,
        _load(row),
        str(row.lookahead),
        f"{row.output_tokens_per_s:.0f}",
        ttft,
        tpot,
        _number(row.itl_ms_p99),
        "-" if row.acceptance_length is None else f"{row.acceptance_length:.2f}",
        f"{row.goodput:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _comparison(one: Comparison) -> str:
    over_best, over_off = _bounded(one.over_best, one.over_best_low), _bounded(one.over_off, one.over_off_low)
    return f"| {one.request_class} | {_load(one)} | {one.best_fixed} | {over_best} | {over_off} | {one.num_pairs} |"


def _one_for_all(one: OneForAll) -> str:
    return (
        f"If all {one.num_places} closed loops had to have the same fixed lookahead, {one.lookahead} would be the "
        f"best: auto over it is {one.auto_over_it:.3f} (geometric mean of tokens/s, first windows)."
    )


def _load(one: Row | Comparison) -> str:
    return f"{one.concurrency} streams" if one.request_rate is None else f"{one.request_rate:g}/s"


def _bounded(ratio: float | None, low: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.3f}" if low is None else f"{ratio:.3f} ({low:.3f})"


def _pair(middle: float | None, high: float | None) -> str:
    return f"{_number(middle)} / {_number(high)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
