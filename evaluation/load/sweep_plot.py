"""The frontier of a sweep as a picture: tokens per second against the time per token, one panel per kind of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evaluation.load.sweep_records import Lookahead, Row

_HOW = "the picture needs matplotlib: `pip install 'outrider[eval]'`, or leave it out with --no-plot"


class PlotError(RuntimeError):
    """No picture can be drawn here; the message says how to mend that."""


def check_plotting() -> None:
    """PlotError if matplotlib is not installed: better said before a sweep than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise PlotError(_HOW) from None


def draw_frontier(rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Write a PNG. Each line is one lookahead, its points are the loads; up and to the left is better. PlotError."""
    check_plotting()
    # No display is needed, and none is opened.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = list(dict.fromkeys(row.request_class for row in rows))
    figure = Figure(figsize=(5.5 * max(1, len(classes)), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for index, name in enumerate(classes):
        axes = figure.add_subplot(1, len(classes), index + 1)
        own = [row for row in rows if row.request_class == name]
        for lookahead in dict.fromkeys(row.lookahead for row in own):
            points = frontier(own, lookahead)
            if not points:
                continue
            is_auto = lookahead == "auto"
            style = {"color": "black", "linewidth": 2.5, "zorder": 3} if is_auto else {"alpha": 0.75}
            axes.plot(*zip(*points, strict=True), marker="o", label=_label(lookahead), **style)
        axes.set_title(name)
        axes.set_xlabel("time per output token, median, ms")
        axes.set_ylabel("output tokens/s")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    if title:
        figure.suptitle(title)
    figure.savefig(path, format="png", dpi=120)


def frontier(rows: Sequence[Row], lookahead: Lookahead) -> list[tuple[float, float]]:
    """(ms per token, tokens/s) of one lookahead by rising load, where both are known."""
    own = [row for row in rows if row.lookahead == lookahead and row.tpot_ms_p50 is not None]
    own.sort(key=lambda row: row.concurrency or row.request_rate or 0)
    return [(row.tpot_ms_p50, row.output_tokens_per_s) for row in own if row.tpot_ms_p50 is not None]


def _label(lookahead: Lookahead) -> str:
    return "off" if lookahead == 0 else str(lookahead)
