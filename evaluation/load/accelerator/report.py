"""Rows as lines while they are measured, and as tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.load.accelerator.records import DraftRow, LibraryRow, PromptRow, StepRow
from evaluation.load.samples import Spread

AnyRow = StepRow | PromptRow | LibraryRow | DraftRow


def spread_text(spread: Spread | dict[str, float]) -> str:
    """Median, and the smallest and largest in brackets."""
    found = spread if isinstance(spread, Spread) else Spread(**spread)
    return f"{_number(found.median)} ({_number(found.low)} to {_number(found.high)})"


def row_text(row: AnyRow) -> str:
    """One line."""
    match row:
        case StepRow():
            place, time = f"verify {row.sessions:3} x {1 + row.lookahead} at {row.context}", row.step_ms
            beside = {"floor": row.floor_ms, "products": row.products_ms}
        case PromptRow():
            place, time, beside = f"prompt chunk of {row.num_tokens}", row.chunk_ms, {}
        case LibraryRow():
            place, time, beside = f"library 1 x {1 + row.lookahead} at {row.context}", row.step_ms, {}
        case DraftRow():
            place, time = f"draft {row.sessions:3} x {row.lookahead} at {row.context}", row.draft_ms
            beside = {"floor": row.floor_ms}
    ratios = [f"{time.median / ms:.2f} x {name} {_number(ms)}" for name, ms in beside.items() if ms]
    return "; ".join([f"{place}: {spread_text(time)} ms", *ratios])


def to_markdown(steps: Sequence[StepRow], drafts: Sequence[DraftRow]) -> str:
    """Verify steps and drafts, sessions down, lookaheads across: the median, and how often the floor it is."""
    lines: list[str] = []
    for context in dict.fromkeys(row.context for row in steps):
        ours = {(r.sessions, r.lookahead): (r.step_ms.median, r.floor_ms) for r in steps if r.context == context}
        lines += _table(f"verify, ms, context {context}", ours)
    for context in dict.fromkeys(row.context for row in drafts):
        theirs = {(r.sessions, r.lookahead): (r.draft_ms.median, r.floor_ms) for r in drafts if r.context == context}
        lines += _table(f"draft, ms, context {context}", theirs)
    return "\n".join(lines)


def _table(title: str, cells: dict[tuple[int, int], tuple[float, float | None]]) -> list[str]:
    lookaheads = sorted({lookahead for _, lookahead in cells})
    lines = [f"| {title} | {' | '.join(f'k={lookahead}' for lookahead in lookaheads)} |"]
    lines.append("|---|" + "---|" * len(lookaheads))
    for sessions in sorted({sessions for sessions, _ in cells}):
        texts = [_cell(cells.get((sessions, lookahead))) for lookahead in lookaheads]
        lines.append(f"| {sessions} sessions | {' | '.join(texts)} |")
    return [*lines, ""]


def _cell(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return "-"
    ms, floor_ms = found
    return _number(ms) if not floor_ms else f"{_number(ms)} ({ms / floor_ms:.2f}x)"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value < 100 else f"{value:.1f}"
