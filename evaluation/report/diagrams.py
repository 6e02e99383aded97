"""Diagrams as SVG texts, to stand inside an HTML page."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

from evaluation.load.throughput_records import Cell
from evaluation.quality.extras import load
from evaluation.quality.results import Summary

COLOURS = ("#1b6ca8", "#d1495b", "#3c8d5a", "#8d5a97", "#c98b1d", "#4d4d4d")
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "outrider", "font.family": "sans-serif", "font.size": 10}


def new_figure(width: float, height: float, num_panels: int = 1) -> tuple[Any, list[Any]]:
    """A figure that belongs to no window, and its panels side by side; inches."""
    figure = load("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, num_panels, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    return figure, list(panels)


def to_svg(figure: Any) -> str:
    """The drawing alone, without the head of an SVG file; the same figure gives the same text."""
    buffer = io.StringIO()
    with load("matplotlib").rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def quality(summaries: Sequence[Summary]) -> str:
    """Mean and interval of every metric, the variants one below the other."""
    metrics = list(dict.fromkeys(one.metric for one in summaries))
    variants = list(dict.fromkeys(one.variant for one in summaries))
    figure, (axes,) = new_figure(8, 0.8 + 0.28 * len(summaries))
    for i, variant in enumerate(variants):
        ones = [one for one in summaries if one.variant == variant]
        middles = [one.all.mean for one in ones]
        rows = [metrics.index(one.metric) + 0.7 * ((i + 0.5) / len(variants) - 0.5) for one in ones]
        errors = [[one.mean - one.low for one in middles], [one.high - one.mean for one in middles]]
        colour = COLOURS[i % len(COLOURS)]
        means = [one.mean for one in middles]
        axes.errorbar(means, rows, xerr=errors, fmt="o", markersize=5, capsize=3, color=colour, label=variant)
    axes.set_yticks(range(len(metrics)), metrics)
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("mean score, 95 % interval")
    if len(variants) > 1:
        figure.legend(loc="outside right upper", frameon=False)
    return to_svg(figure)


def latency_by_throughput(cells: Sequence[Cell]) -> str:
    """Time per output token over tokens/s, a panel per class, a line per variant through its numbers of streams."""
    classes = list(dict.fromkeys(cell.task_class for cell in cells))
    figure, panels = new_figure(3.4 * len(classes), 3.2, len(classes))
    for axes, task_class in zip(panels, classes, strict=True):
        axes.set_title(task_class)
        axes.set_xlabel("tokens/s")
        for colour, variant, ones in _lines(cells, task_class):
            timed = [one for one in ones if one.tpot_ms_p50 is not None]
            rates = [one.tokens_per_s.median for one in timed]
            axes.plot(rates, [one.tpot_ms_p50 for one in timed], "o-", color=colour, label=variant)
            for one in timed:
                place = (one.tokens_per_s.median, one.tpot_ms_p50)
                axes.annotate(str(one.num_streams), place, textcoords="offset points", xytext=(5, 4), fontsize=8)
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    panels[0].set_ylabel("ms per output token, median")
    _legend(figure, panels[0])
    return to_svg(figure)


def acceptance_by_position(cells: Sequence[Cell]) -> str:
    """Share of rounds that accepted each position, a panel per class, at the fewest streams; "" where none is told."""
    told = [cell for cell in cells if cell.by_position]
    classes = list(dict.fromkeys(cell.task_class for cell in told))
    if not classes:
        return ""
    figure, panels = new_figure(3.4 * len(classes), 3.0, len(classes))
    for axes, task_class in zip(panels, classes, strict=True):
        axes.set_title(task_class)
        axes.set_xlabel("position in the proposal")
        for colour, variant, ones in _lines(cells, task_class):
            if shares := ones[0].by_position:
                axes.plot(range(1, 1 + len(shares)), shares, "o-", color=colour, label=variant)
        axes.set_ylim(0, 1.02)
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("accepted, share of rounds")
    _legend(figure, panels[0])
    return to_svg(figure)


def _lines(cells: Sequence[Cell], task_class: str) -> Iterator[tuple[str, str, list[Cell]]]:
    """Colour, name and cells of each variant, by streams; a variant has one colour in every diagram."""
    for i, variant in enumerate(dict.fromkeys(cell.variant for cell in cells)):
        ones = [cell for cell in cells if (cell.variant, cell.task_class) == (variant, task_class)]
        if ones:
            yield COLOURS[i % len(COLOURS)], variant, sorted(ones, key=lambda cell: cell.num_streams)


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside right upper", frameon=False)
