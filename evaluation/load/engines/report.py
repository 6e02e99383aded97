"""Turns the bench's runs into JSON rows and Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from evaluation.load.engines.bench import Results
from evaluation.load.engines.records import HF, HF_ASSISTED, HF_CONTINUOUS, OUTRIDER, VLLM, Cell, Run, Setting
from evaluation.load.samples import spread

COLUMNS: Mapping[tuple[str, bool], str] = {
    (OUTRIDER, False): "outrider, plain",
    (OUTRIDER, True): "outrider",
    (VLLM, False): "vLLM, plain",
    (VLLM, True): "vLLM, MTP",
    (HF, False): "HF generate",
    (HF_ASSISTED, True): "HF generate, assisted",
    (HF_CONTINUOUS, False): "HF continuous batching",
}
"""By system and whether it drafts, in the table's order."""


def rows(results: Results) -> list[dict[str, Any]]:
    """One row per cell and setting: medians of the measured runs, and the calibration's single ones."""
    reference = {cell: runs for (cell, setting), runs in results.measured.items() if setting == Setting(OUTRIDER, 0)}
    found = [_row(cell, setting, [run], "calibration") for (cell, setting), run in results.calibration.items()]
    for (cell, setting), runs in results.measured.items():
        num_same, num_answers = agreement(reference.get(cell, ()), runs)
        found.append(
            _row(cell, setting, runs, "measured") | {"num_same_text": num_same, "num_compared_text": num_answers}
        )
    return found


def _row(cell: Cell, setting: Setting, runs: Sequence[Run], phase: str) -> dict[str, Any]:
    speed = spread([run.tokens_per_s for run in runs])
    return {
        "system": setting.system,
        "pair": cell.pair,
        "request_class": cell.task,
        "streams": cell.num_streams,
        "prompt_tokens": cell.num_prompt_tokens,
        "lookahead": setting.lookahead,
        "output_tokens_per_s": speed.median,
        "output_tokens_per_s_low": speed.low,
        "output_tokens_per_s_high": speed.high,
        "step_ms_p50": _median([run.step_ms_p50 for run in runs]),
        "acceptance_length": _median([run.acceptance_length for run in runs]),
        "num_runs": len(runs),
        "phase": phase,
    }


def agreement(reference: Sequence[Run], runs: Sequence[Run]) -> tuple[int, int]:
    """How many answers equal the reference's to the token, of how many that both gave."""
    pairs = [
        (a, b)
        for one, other in zip(reference, runs, strict=False)
        for a, b in zip(one.outputs, other.outputs, strict=True)
    ]
    return sum(a == b for a, b in pairs), len(pairs)


def to_markdown(results: Results, environment: Mapping[str, Any]) -> str:
    """One table per pair, then what a reader must know to believe them; `engines` in it names theirs and versions."""
    measured = [row for row in rows(results) if row["phase"] == "measured"]
    lines: list[str] = []
    for pair in dict.fromkeys(row["pair"] for row in measured):
        lines += [*_table(pair, [row for row in measured if row["pair"] == pair]), ""]
    return "\n".join([*lines, *_notes(results, measured, environment)]) + "\n"


def _table(pair: str, measured: Sequence[Mapping[str, Any]]) -> list[str]:
    by_place = {(_place(row), (row["system"], row["lookahead"] > 0)): row for row in measured}
    columns = [key for key in COLUMNS if any(found == key for _, found in by_place)]
    lines = [
        f"| {pair}: tokens/s | streams | prompt | {' | '.join(COLUMNS[key] for key in columns)} |",
        f"|---|---|---|{'---|' * len(columns)}",
    ]
    for place in dict.fromkeys(_place(row) for row in measured):
        cells = [_cell_text(by_place.get((place, key)), key[0]) for key in columns]
        lines.append(f"| {' | '.join(map(str, place))} | {' | '.join(cells)} |")
    return lines


def _place(row: Mapping[str, Any]) -> tuple[str, int, int]:
    return row["request_class"], row["streams"], row["prompt_tokens"]


def _cell_text(row: Mapping[str, Any] | None, system: str) -> str:
    if row is None:
        return "one at a time" if system == HF_ASSISTED else "not measured"
    speed = [row[f"output_tokens_per_s{end}"] for end in ("", "_low", "_high")]
    text = f"{speed[0]:.0f} ({speed[1]:.0f} to {speed[2]:.0f})"
    length = row["acceptance_length"]
    return text if length is None else f"{text}; k={row['lookahead']}, {length:.2f} per round"


def _notes(results: Results, measured: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]) -> list[str]:
    num_runs = max((row["num_runs"] for row in measured), default=0)
    lines = [
        f"Medians of {num_runs} interleaved runs (smallest to largest), greedy, prefill included; k is each system's "
        "best lookahead in a calibration on other prompts, `per round` its mean acceptance length.",
        "",
        f"Same tokens as outrider without drafting: {_agreements(measured)}.",
        "",
    ]
    if results.is_cut_short:
        lines += ["Time ran out: some cells have fewer runs, or none.", ""]
    left_out = dict.fromkeys((system, reason) for (_, system), reason in results.left_out.items())
    for system, reason in left_out:
        lines += [f"{system} does not serve this pair: {reason}", ""]
    if not any(row["system"] == VLLM for row in measured) and VLLM not in dict(left_out):
        lines += ["vLLM was not measured: no interpreter that has it was given.", ""]
    return [
        *lines,
        "; ".join([*(str(environment[key]) for key in ("machine", "engines", "date")), f"`{environment['command']}`"]),
    ]


def _agreements(measured: Sequence[Mapping[str, Any]]) -> str:
    found = []
    for key, name in COLUMNS.items():
        ours = [row for row in measured if (row["system"], row["lookahead"] > 0) == key]
        num_same, num_all = (sum(row[f"num_{what}_text"] for row in ours) for what in ("same", "compared"))
        if num_all and key != (OUTRIDER, False):
            found.append(f"{name} {num_same} of {num_all}")
    return ", ".join(found) or "nothing to compare"


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
